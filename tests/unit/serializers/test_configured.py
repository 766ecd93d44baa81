"""The classes of ``SERIALIZERS`` are imported when Django starts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from django.apps import apps

from tests.support.overrides import outbox_settings


def test_publish_imports_no_library_in_a_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_serializer.py").write_text("class Odd:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with outbox_settings(SERIALIZERS={"order.*": {"CLASS": "odd_serializer.Odd"}}):
            apps.get_app_config("django_outbox").ready()
        assert "odd_serializer" in sys.modules
    finally:
        sys.modules.pop("odd_serializer", None)


@pytest.mark.parametrize("serializers", [{"order.*": {"CLASS": "missing.Odd"}}, {"order.*": 7}, None])
def test_what_cannot_be_imported_is_left_to_the_checks(serializers: object) -> None:
    with outbox_settings(SERIALIZERS=serializers):
        apps.get_app_config("django_outbox").ready()
