"""For how long published messages have waited for a handler, however a database finds them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from django_outbox.exceptions import HandlersNotImportable
from django_outbox.handlers.registry import registry
from django_outbox.models.fields import DatabaseNow
from django_outbox.state import unhandled
from django_outbox.state.unhandled import longest_unhandled, longest_unhandled_by_topic
from tests.support.outbox import make_message
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db


def sent_ago(minutes: int, **fields: Any) -> None:
    """A published message with a handler of tests.support.app."""
    sent = DatabaseNow() - timedelta(minutes=minutes)
    place = {"partition": 0, "offset": 0}
    make_message("published", **{"event_type": "test.effect", "published_at": sent, **place, **fields})


def test_the_longest_wait_is_known_without_an_index_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on MySQL and MariaDB."""
    monkeypatch.setattr(connection.features, "supports_partial_indexes", False)
    sent_ago(30)
    sent_ago(1)
    make_message("consumed", event_type="test.effect", published_at=DatabaseNow() - timedelta(minutes=90))
    assert longest_unhandled("default") == pytest.approx(1800, abs=60)


def test_a_partition_counts_although_another_has_lower_offsets(
    monkeypatch: pytest.MonkeyPatch, at_most: Callable[[int], AbstractContextManager[None]]
) -> None:
    monkeypatch.setattr(unhandled, "SAMPLE_SIZE", 3)
    sent_ago(30, partition=0, offset=50)
    for offset in range(1, 6):
        sent_ago(1, partition=1, offset=offset)
    with at_most(30):
        assert longest_unhandled("default") == pytest.approx(1800, abs=60)


def test_where_all_types_are_handled_one_statement_reads_the_oldest(
    monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    monkeypatch.setattr(unhandled, "SAMPLE_SIZE", 3)
    for minutes in (30, 5, 4, 3, 2):
        sent_ago(minutes)
    with outbox_settings(UNKNOWN_EVENT="dead"), django_assert_num_queries(1):
        assert longest_unhandled("default") == pytest.approx(1800, abs=60)


def test_each_topic_and_partition_is_looked_at_once(
    monkeypatch: pytest.MonkeyPatch, at_most: Callable[[int], AbstractContextManager[None]]
) -> None:
    monkeypatch.setattr(connection.features, "supports_partial_indexes", True)
    monkeypatch.setattr(unhandled, "SAMPLE_SIZE", 1)
    sent_ago(10, topic="a")
    sent_ago(20, topic="a", partition=1)
    sent_ago(30, topic="b")
    with at_most(30):
        found = longest_unhandled_by_topic("default")
    assert found == {"a": pytest.approx(1200, abs=60), "b": pytest.approx(1800, abs=60)}


def test_copies_that_nobody_here_reads_wait_for_no_handler_even_if_handlers_are_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load() -> None:
        raise HandlersNotImportable("shop.handlers cannot be imported")

    monkeypatch.setattr(registry, "load", load)
    sent_ago(30, topic="copies")
    sent_ago(10, topic="orders")
    with outbox_settings(DEAD_LETTER_TOPIC="copies"):
        assert longest_unhandled_by_topic("default") == {"orders": pytest.approx(600, abs=60)}
