"""What is recorded of a release uses all of its tables."""

from __future__ import annotations

from typing import Any

import pytest
from django.apps import apps

from tests.support.outbox import memory_broker
from tests.upgrades.scenario import fill


@pytest.fixture
def fields(db: None) -> list[tuple[Any, Any]]:
    """Of all tables, once they are filled."""
    fill(memory_broker())
    models = [model for model in apps.get_app_config("django_outbox").get_models() if not model._meta.proxy]
    return [(model, field) for model in models for field in model._meta.fields]


def values_of(model: Any, field: Any) -> list[Any]:
    return list(model.objects.values_list(field.attname, flat=True))


def test_each_column_has_a_value_that_is_not_its_default(fields: list[tuple[Any, Any]]) -> None:
    assert [
        str(field)
        for model, field in fields
        if all(value in (field.get_default(), None, "") for value in values_of(model, field))
    ] == []


def test_each_status_stage_and_kind_occurs(fields: list[tuple[Any, Any]]) -> None:
    for model, field in fields:
        if field.name in ("status", "stage", "kind"):
            assert set(values_of(model, field)) == {name for name, _ in field.choices}
