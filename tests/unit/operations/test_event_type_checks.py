"""System checks of declared event types: what cannot be used, and what must be declared and is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from django.core.checks import run_checks
from django.test import override_settings

from django_outbox import event_type
from django_outbox.handlers.registry import registry
from django_outbox.operations.checks.event_types import check_event_types
from tests.support.declaring import handler_of, only_handlers, own_event_types
from tests.support.overrides import outbox_settings


@dataclass
class Order:
    id: int


@dataclass
class Changed:
    id: str


@pytest.fixture(autouse=True)
def own() -> Iterator[None]:
    with own_event_types(), only_handlers(handler_of("order.created"), handler_of("order.paid", group="books")):
        yield


def test_nothing_needs_to_be_declared_by_default() -> None:
    assert check_event_types() == []


def test_a_type_that_cannot_be_validated_is_found() -> None:
    event_type("order.created")(type("Other", (), {}))

    (found,) = (each for each in run_checks() if each.id == "django_outbox.E011")
    assert "The event type order.created v1 is declared as Other, which cannot be used" in found.msg
    assert found.hint


def test_one_type_that_is_declared_with_and_without_the_source_of_this_service_is_found() -> None:
    event_type("order.created")(Order)
    event_type("order.created", source="books")(Order)
    assert check_event_types() == []
    event_type("order.created", source="tests")(Changed)

    (found,) = (each for each in run_checks() if each.id == "django_outbox.E011")
    assert "order.created v1 is declared twice: without source, and with source='tests'" in found.msg
    assert found.hint


def test_a_missing_source_is_reported_as_an_invalid_value() -> None:
    event_type("order.created", source="books")(Order)

    with override_settings(OUTBOX={"EVENT_TYPES": "required"}):
        assert check_event_types() == []
        assert "django_outbox.E003" in {each.id for each in run_checks()}


def test_each_undeclared_type_with_a_handler_is_found_where_declarations_are_required() -> None:
    event_type("order.paid", version="v2", source="books")(Order)

    with outbox_settings(EVENT_TYPES="required"):
        (found,) = (each for each in run_checks() if each.id == "django_outbox.E012")
    assert found.msg == "The event type 'order.created' is not declared, but handled by tests.support.declaring.handle."
    assert found.hint
    event_type("order.created")(Order)
    with outbox_settings(EVENT_TYPES="required"):
        assert check_event_types() == []


def test_handlers_that_cannot_be_imported_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from django_outbox.exceptions import HandlersNotImportable

    def load() -> None:
        raise HandlersNotImportable("shop.handlers cannot be imported")

    monkeypatch.setattr(registry, "load", load)
    assert check_event_types() == []
    with outbox_settings(EVENT_TYPES="required"):
        (found,) = check_event_types()
    assert (found.id, found.msg) == ("django_outbox.E012", "shop.handlers cannot be imported")


def test_an_invalid_value_is_reported_once() -> None:
    with outbox_settings(EVENT_TYPES="all"):
        assert check_event_types() == []
        assert [each.id for each in run_checks() if not each.is_silenced()] == ["django_outbox.E002"]
