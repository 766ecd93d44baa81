"""Names, keys and ages as the pages show them."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.utils import timezone

from django_outbox.observability import text as texts


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("invoice.payment_reminder", ["invoice.", "payment_", "reminder"]),
        ("com.example.OrderCreated", ["com.", "example.", "Order", "Created"]),
        ("https://example.com/orders", ["https://", "example.", "com/", "orders"]),
        ("The value is no JSON. See: x.", ["The value is no JSON. See: x."]),
        ("<b>.name&", ["&lt;b&gt;.", "name&amp;"]),
        ("", [""]),
    ],
)
def test_a_name_wraps_where_its_parts_end(name: str, parts: list[str]) -> None:
    assert texts.breakable(name).split("<wbr>") == parts


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("4017", ["4017"]),
        ("94e6a38c0b12", ["94e6a38c0b12"]),
        ("0190b2c4-7d1a-7e07", ["0190b2c4-", "7d1a-", "7e07"]),
        ("a" * 30, ["a" * 12, "a" * 12, "a" * 6]),
        ("--<\n", ["--", "&lt;\n"]),
        ("", [""]),
    ],
)
def test_a_key_wraps_after_hyphens_and_within_long_parts_only(key: str, parts: list[str]) -> None:
    assert texts.in_pieces(key).split("<wbr>") == parts


def test_a_moment_that_stands_alone_is_told_as_ago() -> None:
    assert re.fullmatch(r"\d+\sminutes ago", texts.ago(timezone.now() - timedelta(minutes=38)))
    assert texts.ago(None) == "-"
