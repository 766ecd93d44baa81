"""Events without a handler, handlers without an event."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest

from django_outbox.exceptions import HandlersNotImportable
from django_outbox.handlers.registry import Registry
from django_outbox.models import OutboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.operations.doctor import base, events
from django_outbox.operations.doctor.base import Installation, Level
from tests.pipeline.doctor.test_workers import make_worker
from tests.support.inbox import make_received
from tests.support.outbox import Status, make_message
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Handlers of the test's own."""
    handlers = Registry()
    monkeypatch.setattr(handlers, "load", lambda: None)
    monkeypatch.setattr(base, "registry", handlers)
    return handlers


def ship(event: Any) -> None:
    """Handle nothing."""


def test_events_with_handlers_and_handlers_with_events_are_fine(installation: Installation, registry: Registry) -> None:
    registry.register("order.created", ship)
    registry.register("stock.changed", ship, group="reports")
    make_message()
    make_received(event_type="stock.changed")
    assert list(events.without_handler(installation)) == []
    assert list(events.without_events(installation)) == []


def test_nothing_is_said_before_anything_was_published_or_is_handled(
    installation: Installation, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.register("order.created", ship)
    assert list(events.without_events(installation)) == []
    make_message(event_type="for.others")
    assert list(events.without_handler(Installation("default"))) != []
    monkeypatch.setattr(base, "registry", Registry())
    assert list(events.without_handler(Installation("default"))) == []  # all of its events are for others


def test_events_without_handler_are_one_note(installation: Installation, registry: Registry) -> None:
    registry.register("order.created", ship)
    for event_type in ("order.created", "stock.low", "user.left"):
        make_message(event_type=event_type)
    (finding,) = events.without_handler(installation)
    assert finding.level == Level.NOTE
    assert finding.summary == "No handler here is for 'stock.low', 'user.left'."


def test_an_event_type_is_told_once_however_many_topics_it_goes_to(
    installation: Installation, registry: Registry
) -> None:
    registry.register("order.created", ship)
    for topic in ("a", "b"):
        make_message(event_type="stock.low", topic=topic)
    (finding,) = events.without_handler(installation)
    assert finding.summary == "No handler here is for 'stock.low'."
    with outbox_settings(UNKNOWN_EVENT="dead"):
        (finding,) = events.without_handler(installation)
    assert "2 of the last 5,000" in finding.why


@pytest.mark.parametrize("has_handlers", [True, False])
def test_a_task_without_a_function_is_a_fault(
    installation: Installation, registry: Registry, has_handlers: bool
) -> None:
    if has_handlers:
        registry.register("order.created", ship)
    make_message("published", event_type="task:shop.tasks.gone")
    (finding,) = events.without_handler(installation)
    assert (finding.level, finding.summary) == (Level.FAULT, "There is no task shop.tasks.gone here.")


def test_an_event_that_dies_for_want_of_a_handler_is_a_fault(installation: Installation, registry: Registry) -> None:
    registry.register("order.created", ship)
    make_message(event_type="stock.low")
    with outbox_settings(UNKNOWN_EVENT="dead"):
        (finding,) = events.without_handler(installation)
    assert finding.level == Level.FAULT
    assert "1 of the last 5,000" in finding.why


def test_an_event_and_a_handler_that_are_written_differently_are_warned_of(
    installation: Installation, registry: Registry
) -> None:
    registry.register("order.created", ship)
    make_message(event_type="order_created")
    (finding,) = events.without_handler(installation)
    assert (finding.level, finding.summary) == (Level.WARNING, "'order_created' has no handler here.")
    assert finding.remedy.endswith("Did you mean 'order.created'?")
    (finding,) = events.without_events(installation)
    assert finding.level == Level.WARNING
    assert finding.summary.startswith(
        "No event 'order.created', for which tests.pipeline.doctor.test_events.ship waits,"
    )
    assert finding.remedy.endswith("Did you mean 'order_created'?")


def test_an_event_in_another_topic_than_its_handler_wants_is_warned_of(
    installation: Installation, registry: Registry
) -> None:
    registry.register("order.created", ship, topic="orders")
    make_message(topic="outbox")
    (finding,) = events.without_handler(installation)
    assert finding.level == Level.WARNING
    assert "in the topic 'outbox', only in others" in finding.summary


def published(topic: str, event_type: str = "test.effect", **fields: Any) -> OutboxMessage:
    """A message that has waited for its handler in ``tests.support.app`` for ten minutes."""
    since = DatabaseNow() - timedelta(minutes=10)
    return make_message(Status.PUBLISHED, event_type=event_type, topic=topic, published_at=since, **fields)


def test_a_topic_that_no_consumer_reads_is_a_fault_if_a_handler_waits_for_its_messages(
    installation: Installation,
) -> None:
    published("outbox")
    published("exports")
    make_message(event_type="test.effect", topic="imports", next_retry_at=DatabaseNow() + timedelta(days=1))
    exports, imports = events.unread_topics(installation)
    assert (exports.level, exports.summary) == (Level.FAULT, "No consumer reads the topic exports.")
    assert re.match(r"Messages have waited for their handler for \d+ minutes\. ", exports.why)
    assert 'OUTBOX["ROUTES"]' in exports.remedy
    assert (imports.level, imports.summary) == (Level.FAULT, "No consumer reads the topic imports.")
    with outbox_settings(ROUTES={"a.*": "exports", "b.*": "imports"}):
        assert list(events.unread_topics(Installation("default"))) == []


def test_a_topic_that_the_running_consumers_were_not_told_to_read_is_a_fault(installation: Installation) -> None:
    published("outbox")
    make_worker("consumer", group="tests", topics="exports")
    (finding,) = events.unread_topics(installation)
    assert (finding.level, finding.summary) == (Level.FAULT, "No consumer reads the topic outbox.")
    assert "--topics" in finding.remedy
    make_worker("consumer", group="tests", topics="exports, outbox")
    assert list(events.unread_topics(installation)) == []


def test_a_topic_for_others_is_a_note(installation: Installation) -> None:
    published("exports", event_type="for.others")
    published("shop.dead")
    with outbox_settings(DEAD_LETTER_TOPIC="shop.dead"):
        (finding,) = events.unread_topics(installation)
    assert (finding.level, finding.summary) == (Level.NOTE, "No consumer here reads 'exports'.")


def test_without_handlers_all_topics_are_for_others(installation: Installation, registry: Registry) -> None:
    published("exports")
    assert list(events.unread_topics(installation)) == []


def test_handlers_without_events_are_one_note(installation: Installation, registry: Registry) -> None:
    registry.register("order.created", ship)
    for number in range(7):
        registry.register(f"rare.{number}", ship)
    make_message()
    (finding,) = events.without_events(installation)
    assert finding.level == Level.NOTE
    assert "'rare.0', 'rare.1', 'rare.2', 'rare.3', 'rare.4' and 2 more" in finding.summary


def test_handlers_that_cannot_be_imported_are_a_fault(
    installation: Installation, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(events.handlers(installation)) == []

    def broken() -> None:
        raise HandlersNotImportable("shop.handlers cannot be imported (SyntaxError).")

    monkeypatch.setattr(registry, "load", broken)
    (finding,) = events.handlers(installation)
    assert (finding.level, finding.summary) == (Level.FAULT, "shop.handlers cannot be imported (SyntaxError).")


@pytest.mark.parametrize("unknown_event", ["ignore", "dead"])
def test_copies_of_dead_letters_need_no_handler(
    installation: Installation, registry: Registry, unknown_event: str
) -> None:
    registry.register("order.created", ship, topic="orders")
    for event_type in ("order.created", "unreadable"):
        make_message(event_type=event_type, topic="shop.dead")
    with outbox_settings(DEAD_LETTER_TOPIC="shop.dead", UNKNOWN_EVENT=unknown_event):
        assert list(events.without_handler(installation)) == []
