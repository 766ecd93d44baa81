"""Messages in every state, as an upgrade finds them. The event type says what becomes of a message."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from django.db import transaction

from django_outbox import TOMBSTONE, Event, RawBytes, publish_many
from django_outbox.brokers.memory import MemoryBroker
from django_outbox.events.writer import Outgoing, encode
from django_outbox.models import Activity, InboxMessage, MessageFailure, OutboxMessage, Pause, TaskRun, Worker
from django_outbox.models.fields import json_value
from django_outbox.relay.relay import Relay
from django_outbox.state.dialects.base import OUTGOING_COLUMNS
from tests.support.inbox import make_received
from tests.support.outbox import Status, make_message
from tests.support.overrides import outbox_settings

LONG_AGO = datetime(2026, 11, 1, tzinfo=UTC)
FAR_AWAY = datetime(2099, 1, 1, tzinfo=UTC)
PAYLOAD = {"order": 1, "name": "Zoë", "price": "9.90", "tags": ["a", None, True], "weight": 1.5}
BYTES = b"\x00\xff'\\;bytes"
HEADERS = {"tenant": "blue", "note": "Zoë"}
ERROR = 'ArithmeticError: it\'s 100 % "broken"\n  File "handlers.py", line 7'
GROUP = "tests"
NOT_DEFAULT = {"delivery_count": 1, "max_retry": 7, "event_version": "v2"}


def fill(broker: MemoryBroker) -> None:
    """Store the messages. The broker gets the records of those that are published."""
    _published(broker)
    _by_debezium(broker)
    _pending()
    _finished()
    _inbox()
    _operations()


def _published(broker: MemoryBroker) -> None:
    """By a relay, in both formats."""
    events = [
        Event(type="up.published", payload=PAYLOAD, key="a", headers=HEADERS, version="v2"),
        Event(type="up.published.keyless", payload=None),
        Event(type="up.published.bytes", payload=RawBytes(BYTES, "image/png"), key="Zoë"),
        Event(type="up.published.tombstone", payload=TOMBSTONE, key="a"),
    ]
    _relay(broker, events, "cloudevents")
    envelopes = [
        Event(type="up.envelope", payload=PAYLOAD, key="a", headers=HEADERS, version="v2"),
        Event(type="up.envelope.keyless", payload=[]),
        Event(type="up.envelope.bytes", payload=RawBytes(BYTES), key="c"),
    ]
    _relay(broker, envelopes, "envelope")


def _relay(broker: MemoryBroker, events: list[Event], wire_format: str) -> None:
    with outbox_settings(WIRE_FORMAT=wire_format):
        with transaction.atomic():
            publish_many([replace(event, id=str(_id(event.type))) for event in events])
        Relay(broker, using="default").run_once()


def _id(name: str) -> uuid.UUID:
    """The same in each database, as the same records must fit the rows of all."""
    return uuid.uuid5(uuid.NAMESPACE_URL, name)


def _by_debezium(broker: MemoryBroker) -> None:
    """Its rows have no place in the log."""
    about = {"event_type": "up.debezium", "event_id": _id("up.debezium"), "message_key": "d", "payload": PAYLOAD}
    message = make_message(Status.PUBLISHED, **about)
    outgoing = Outgoing(*OutboxMessage.objects.values_list(*OUTGOING_COLUMNS).get(id=message.id))
    broker.producer(1).send([encode(outgoing._replace(publish_count=0), wire_format="cloudevents")], 1)


def _pending() -> None:
    make_message(event_type="up.pending", payload=PAYLOAD, message_key="e", headers=HEADERS, event_version="v2")
    make_message(event_type="up.pending.keyless", payload=json_value(None))
    make_message(event_type="up.pending.bytes", payload=json_value(None), content_type="image/png", raw_value=BYTES)
    make_message(event_type="up.pending.tombstone", payload=json_value(None), content_type="", message_key="e")
    make_message(event_type="up.delayed", next_retry_at=FAR_AWAY)
    failed = make_message(event_type="up.pending.failed", message_key="f", **_failed(1, publish_count=1, max_retry=7))
    _failure(failed, final=False)
    refused = make_message(event_type="up.pending.refused", **_failed(1))
    _failure(refused, final=False, stage="send")
    make_message(event_type="up.paused", next_retry_at=LONG_AGO)
    make_message(event_type="up.of_another_service", source="billing")


def _finished() -> None:
    make_message(Status.CONSUMED, event_type="up.consumed", payload=PAYLOAD, partition=0, offset=99)
    task = make_message(Status.CONSUMED, event_type="task:up.tasks.total", payload={"args": [1], "kwargs": {}})
    TaskRun.objects.create(message=task, worker="host:1", started_at=LONG_AGO, return_value=PAYLOAD)
    dead = make_message(Status.DEAD, event_type="up.dead", payload=PAYLOAD, message_key="g", **_failed(20))
    _failure(dead, final=True)
    make_message(event_type="up.pending.behind_dead", message_key="g")
    cancelled = make_message(Status.DEAD, event_type="up.dead.cancelled", publish_count=0, last_error="not wanted")
    MessageFailure.objects.create(
        message=cancelled, worker="admin", stage="cancel", attempt=0, final=True, error="not wanted", fingerprint=""
    )
    make_message(Status.DEAD, event_type="up.dead.killer", delivery_count=5, last_error="It killed its process")


def _failed(times: int, **fields: Any) -> dict[str, Any]:
    return {"retry_count": times, "last_error": ERROR, "fingerprint": "ArithmeticError in handlers", **fields}


def _failure(message: OutboxMessage | InboxMessage, *, final: bool, stage: str = "handle") -> None:
    of = {"message": message} if isinstance(message, OutboxMessage) else {"inbox_message": message}
    place = {"published_at": LONG_AGO, "partition": 0, "offset": 98} if stage == "handle" else {}
    MessageFailure.objects.create(
        **of,
        **place,
        worker="host:1",
        stage=stage,
        attempt=message.retry_count,
        final=final,
        error=ERROR,
        fingerprint=message.fingerprint,
    )


def _inbox() -> None:
    at = {"event_time": LONG_AGO, "headers": HEADERS, "payload": PAYLOAD}
    _failure(
        make_received(event_type="up.inbox.pending", message_key="a", **_failed(1), **at, **NOT_DEFAULT), final=False
    )
    make_received(event_type="up.inbox.pending.bytes", payload=None, content_type="image/png", raw_value=BYTES)
    make_received(event_type="up.inbox.pending.tombstone", payload=None, content_type="", message_key="b")
    make_received(event_type="up.inbox.delayed", next_retry_at=FAR_AWAY)
    make_received("consumed", event_type="up.inbox.consumed", **at)
    _failure(make_received("dead", event_type="up.inbox.dead", **_failed(20), **at), final=True)
    unreadable = {"source": "", "event_id": "elsewhere/0/9", "payload": None, "raw_key": b"\xff", "raw_value": BYTES}
    make_received("dead", event_type="", last_error="its key is not UTF-8 text", **unreadable)


def _operations() -> None:
    Pause.objects.create(group=GROUP, event_type="up.paused", reason="maintenance", created_by="ann")
    Pause.objects.create(
        group=GROUP, handler="up.handlers.broken", reason="it fails", created_by="circuit breaker", until=FAR_AWAY
    )
    Pause.objects.update(created_at=LONG_AGO)  # what waits for it is due at one of its check times
    Worker.objects.create(
        kind="relay", host="host", pid=1, version="1", source="billing", state="trouble", trouble="away"
    )
    busy = {"lanes": 8, "busy_lanes": 2, "in_progress": 3, "busy_since": LONG_AGO, "busy_key": "outbox: a"}
    consumer = {"group": GROUP, "topics": "outbox", "state": "working", "rate": 1.5}
    Worker.objects.create(kind="consumer", host="host", pid=2, version="1", **consumer, **busy)
    Worker.objects.update(started_at=LONG_AGO, last_seen_at=LONG_AGO)
    Activity.objects.create(period=LONG_AGO, last_id=7, published=5, consumed=4, inbox_received=3, inbox_consumed=2)
