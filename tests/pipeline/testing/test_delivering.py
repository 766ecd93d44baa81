"""deliver(): an event of another service reaches its handlers through the inbox."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from django.db import transaction

from django_outbox import TOMBSTONE, Event, RawBytes, publish
from django_outbox.handlers.registry import Registry
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.testing import deliver
from tests.support.effects import effect_of_payload, effects, fails
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db


def test_its_handler_gets_the_event_through_the_inbox(handlers: Registry) -> None:
    handled: list[Event] = []
    handlers.register("invoice.paid", handled.append, topic="invoices")

    result = deliver(
        "invoice.paid",
        {"on": date(2026, 1, 1)},
        source="billing",
        key=7,
        headers={"tenant": "a"},
        version="v2",
        event_id="i-1",
    )

    (event,) = handled
    assert (event.source, event.topic, event.key, event.id) == ("billing", "invoices", "7", "i-1")
    assert (event.payload, event.version, event.headers["tenant"]) == ({"on": "2026-01-01"}, "v2", "a")
    assert InboxMessage.objects.get().status == "consumed"
    assert result.consumed == 1


@pytest.mark.parametrize("payload", [None, [1, 2], "text", RawBytes(b"abc", content_type="image/png"), TOMBSTONE])
def test_any_payload_arrives_as_it_would_from_kafka(payload: Any, handlers: Registry) -> None:
    handled: list[Event] = []
    handlers.register("invoice.paid", handled.append)
    deliver("invoice.paid", payload, source="billing", key="7")
    assert handled[0].payload == (None if payload is TOMBSTONE else payload)
    assert handled[0].is_tombstone is (payload is TOMBSTONE)


def test_the_same_event_is_handled_once(handlers: Registry) -> None:
    handlers.register("invoice.paid", effect_of_payload)
    deliver("invoice.paid", 1, source="billing", event_id="i-1")
    deliver("invoice.paid", 2, source="billing", event_id="i-1")
    deliver("invoice.paid", 3, source="other", event_id="i-1")
    deliver("invoice.paid", 4, source="billing")
    assert effects() == ["1", "3", "4"]


def test_what_its_handler_publishes_is_handled_too(handlers: Registry) -> None:
    handlers.register("invoice.paid", lambda event: publish("order.released", 7))
    handlers.register("order.released", effect_of_payload)
    deliver("invoice.paid", source="billing")
    assert effects() == ["7"]


def test_messages_that_were_published_before_are_handled_too(handlers: Registry) -> None:
    handlers.register("invoice.paid", effect_of_payload)
    handlers.register("order.created", effect_of_payload)
    with transaction.atomic():
        publish("order.created", 1)
    deliver("invoice.paid", 2, source="billing")
    assert sorted(effects()) == ["1", "2"]
    assert OutboxMessage.objects.get().status == "consumed"


def test_a_failure_is_retried_from_the_inbox_and_raised_in_the_end(handlers: Registry) -> None:
    handlers.register("invoice.paid", fails)
    with outbox_settings(MAX_RETRY=3), pytest.raises(ArithmeticError, match="boom") as caught:
        deliver("invoice.paid", 1, source="billing")
    message = InboxMessage.objects.get()
    assert (message.status, message.retry_count) == ("dead", 3)
    assert caught.value.__notes__[0].startswith(f"Inbox message {message.id} (invoice.paid), handled by ")
    assert len(deliver("invoice.paid", 1, source="billing", raise_errors=False).dead) == 1


def test_handlers_of_a_group_get_it(handlers: Registry) -> None:
    handlers.register("invoice.paid", effect_of_payload, group="reports", topic="invoices")
    deliver("invoice.paid", 1, source="billing")
    assert effects() == ["1"]


def test_the_topic_is_that_of_the_settings_unless_a_handler_names_one(handlers: Registry) -> None:
    handled: list[Event] = []
    handlers.register("invoice.paid", handled.append)
    with outbox_settings(ROUTES={"invoice.*": "routed"}):
        deliver("invoice.paid", 1, source="billing")
        deliver("invoice.paid", 1, source="billing", topic="outbox")
    assert [event.topic for event in handled] == ["routed", "outbox"]


@pytest.mark.parametrize(
    ("event_type", "options", "reason"),
    [
        ("invoice.payed", {}, "no handler is registered for 'invoice.payed'. Known: invoice.paid"),
        ("invoice.paid", {}, r"handlers of 'invoice.paid' read several: a, b. Pass topic="),
        ("invoice.paid", {"topic": "c"}, "topic: no handler of 'invoice.paid' reads 'c'"),
        ("invoice.paid", {"source": "tests"}, "'tests' is this service"),
        ("invoice.paid", {"topic": "a", "key": "k" * 256}, "key: "),
        ("invoice.paid", {"topic": "a", "headers": {"a": 1}}, "headers: "),
        ("invoice.paid", {"topic": "a", "payload": object()}, "payload: "),
        ("invoice.paid", {"topic": "a", "payload": RawBytes(b"x" * 1_500_000)}, "payload: 1500000 bytes are more than"),
        ("invoice.paid", {"topic": "a", "source": ""}, "source: it must not be empty"),
        ("invoice.paid", {"topic": "a", "source": "s" * 256}, "source: "),
        ("invoice.paid", {"topic": "a", "source": 7}, "source: "),
        ("invoice.paid", {"topic": "a", "version": "v" * 33}, "version: "),
        ("invoice.paid", {"topic": "a", "version": 2}, "version: "),
        ("invoice.paid", {"topic": "a", "event_id": ""}, "event_id: it must not be empty"),
        ("invoice.paid", {"topic": "a", "event_id": "i" * 256}, "event_id: "),
        (7, {}, "event_type: "),
    ],
)
def test_what_would_not_reach_a_handler_is_refused(
    event_type: str, options: dict[str, Any], reason: str, handlers: Registry
) -> None:
    handlers.register("invoice.paid", effect_of_payload, topic="a")
    handlers.register("invoice.paid", effect_of_payload, topic="b")
    with pytest.raises(ValueError, match=reason):
        deliver(event_type, **{"source": "billing", **options})
    assert not InboxMessage.objects.exists()
