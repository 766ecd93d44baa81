"""Events without a handler, handlers without an event."""

from __future__ import annotations

from typing import Any

import pytest

from django_outbox.doctor import events
from django_outbox.doctor import subject as subjects
from django_outbox.doctor.finding import Level
from django_outbox.doctor.subject import Subject
from django_outbox.exceptions import HandlersNotImportable
from django_outbox.handlers import Registry
from tests.inbox import make_received
from tests.outbox import make_message
from tests.overrides import outbox_settings

pytestmark = pytest.mark.django_db


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Handlers of the test's own."""
    handlers = Registry()
    monkeypatch.setattr(handlers, "load", lambda: None)
    monkeypatch.setattr(subjects, "registry", handlers)
    return handlers


def ship(event: Any) -> None:
    """Handle nothing."""


def test_events_with_handlers_and_handlers_with_events_are_fine(subject: Subject, registry: Registry) -> None:
    registry.register("order.created", ship)
    registry.register("stock.changed", ship, group="reports")
    make_message()
    make_received(event_type="stock.changed")
    assert list(events.without_handler(subject)) == []
    assert list(events.without_events(subject)) == []


def test_nothing_is_said_before_anything_was_published_or_is_handled(subject: Subject, registry: Registry) -> None:
    registry.register("order.created", ship)
    assert list(events.without_events(subject)) == []
    make_message(event_type="for.others")
    assert list(events.without_handler(Subject("default"))) != []
    registry._handlers.clear()
    assert list(events.without_handler(Subject("default"))) == []  # all of its events are for others


def test_an_event_without_handler_is_noted_and_a_fault_if_it_dies_of_it(subject: Subject, registry: Registry) -> None:
    registry.register("order.created", ship)
    make_message()
    make_message(event_type="order.creatd")
    (finding,) = events.without_handler(subject)
    assert finding.level == Level.NOTE
    assert finding.summary == "'order.creatd' has no handler here. Is 'order.created' meant, which has one?"
    with outbox_settings(UNKNOWN_EVENT="dead"):
        (finding,) = events.without_handler(subject)
    assert finding.level == Level.FAULT
    assert "1 of the last 5,000" in finding.why


def test_an_event_in_another_topic_than_its_handler_wants_is_noted(subject: Subject, registry: Registry) -> None:
    registry.register("order.created", ship, topic="orders")
    make_message(topic="outbox")
    (finding,) = events.without_handler(subject)
    assert "in the topic 'outbox', only in others" in finding.summary


def test_a_handler_without_events_is_noted_and_warned_of_if_it_is_only_written_otherwise(
    subject: Subject, registry: Registry
) -> None:
    registry.register("order.created", ship)
    registry.register("order_created", ship)
    registry.register("parcel.lost", ship)
    make_message()
    found = {finding.summary.split("'")[1]: finding for finding in events.without_events(subject)}
    assert {event_type: finding.level for event_type, finding in found.items()} == {
        "order_created": Level.WARNING,
        "parcel.lost": Level.NOTE,
    }
    assert found["order_created"].why == "Is 'order.created' meant, which is?"
    assert "tests.doctor.test_events.ship" in found["parcel.lost"].summary


def test_handlers_that_cannot_be_imported_are_a_fault(
    subject: Subject, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(events.handlers(subject)) == []

    def broken() -> None:
        raise HandlersNotImportable("shop.handlers cannot be imported (SyntaxError).")

    monkeypatch.setattr(registry, "load", broken)
    (finding,) = events.handlers(subject)
    assert (finding.level, finding.summary) == (Level.FAULT, "shop.handlers cannot be imported (SyntaxError).")
