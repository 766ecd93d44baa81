"""Handlers of watched processes. Each leaves an effect; those that fail do so until a failure is stored, whoever is killed."""

from __future__ import annotations

from django.db import connection

from django_outbox import Event, Reject, handler, publish
from django_outbox.conf import settings
from django_outbox.models import InboxMessage, OutboxMessage, Pause
from tests.support.app.models import Effect


def _effect(event: Event) -> None:
    Effect.objects.create(name=str(event.payload), event_id=event.id)


def _has_failed(event: Event) -> bool:
    """True once a failure of this message is stored."""
    model = OutboxMessage if event.source == settings.source else InboxMessage
    return bool(model.objects.filter(event_id=event.id, retry_count__gt=0).exists())


@handler("watched.effect")
@handler("watched.unsendable")
def effect(event: Event) -> None:
    _effect(event)


@handler("watched.many", batch=10)
def many(events: list[Event]) -> None:
    for event in events:
        _effect(event)


@handler("watched.publishes")
def publishes(event: Event) -> None:
    """Publish another message, whose name has the key b."""
    _effect(event)
    publish("watched.effect", f"b{event.payload}", key="b")


@handler("watched.fails")
def fails(event: Event) -> None:
    _effect(event)
    if not _has_failed(event):
        raise ArithmeticError("not the first time")


@handler("watched.rejects")
def rejects(event: Event) -> None:
    _effect(event)
    raise Reject("nobody wants it")


@handler("watched.conflicts")
def conflicts(event: Event) -> None:
    """Raise serialization failures until the message was requeued: it is sent again, or stored in the inbox."""
    _effect(event)
    if event.source == settings.source:
        is_first = event.attempt == 1
    else:
        is_first = not InboxMessage.objects.filter(event_id=event.id, status="pending").exists()
    if is_first:
        with connection.cursor() as cursor:
            cursor.execute("DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$")


@handler("watched.trips")
def trips(event: Event) -> None:
    """Fail until the circuit breaker has paused this handler."""
    _effect(event)
    if not Pause.objects.filter(group=settings.consumer_group).exists():
        raise ArithmeticError("the service is away")
