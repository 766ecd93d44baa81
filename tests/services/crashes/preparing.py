"""What is there before the watched process starts. These functions run in processes of their own, with a chain's settings."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from django.core.management import call_command
from django.db import transaction
from django.db.models import F

from django_outbox import Event, publish
from django_outbox.brokers.base import Record
from django_outbox.brokers.loading import get_broker
from django_outbox.conf import settings
from django_outbox.models import InboxMessage, OutboxMessage, Pause
from django_outbox.models.fields import DatabaseNow
from django_outbox.state import inbox, pauses
from django_outbox.state.inbox_rows import pending_row

ELSEWHERE = "elsewhere"
NO_PARTITION = 7
Message = tuple[str, str]
"""Name and event type. The first letter of the name is the key; the name is also the payload."""


def send(*messages: Message, **options: Any) -> None:
    """Publish messages."""
    for name, event_type in messages:
        with transaction.atomic():
            publish(event_type, name, key=name[0], **options)


def sent(*messages: Message, **options: Any) -> None:
    """The same, and relay them."""
    send(*messages, **options)
    relay()


def relay() -> None:
    call_command("outbox_relay", "--drain", "--create-topics", "--partitions", 2, verbosity=0)


def delayed(first: Message, *others: Message) -> None:
    """Messages of which the first is due later."""
    send(first, delay=timedelta(hours=1))
    send(*others)


def to_topic(topic: str, *messages: Message) -> None:
    """Messages to a topic that the settings do not name."""
    send(*messages, topic=topic)


def behind_dead(dead: Message, *others: Message) -> None:
    """Messages behind one that the relay has given up."""
    sent(dead)
    send(*others)


def expired(*messages: Message) -> None:
    """Messages to send, and one that was consumed long ago."""
    sent(("x1", "watched.nobody"))
    OutboxMessage.objects.filter(source=settings.source).update(
        status="consumed", consumed_at=DatabaseNow(), updated_at=DatabaseNow() - timedelta(days=30)
    )
    send(*messages)


def delivered(counts: dict[str, int], *messages: Message) -> None:
    """Published messages with so many counted deliveries, by name."""
    sent(*messages)
    for name, count in counts.items():
        OutboxMessage.objects.filter(source=settings.source, payload=name).update(delivery_count=count)


def lost(*messages: Message) -> None:
    """Published messages, all but the last of which are not in the log: of a partition's end, and of one that is gone."""
    sent(*messages)
    own = OutboxMessage.objects.filter(source=settings.source)
    for number, (name, _) in enumerate(messages[:-1]):
        place = (
            {"partition": F("partition"), "offset": 1_000_000}
            if number == 0
            else {"partition": NO_PARTITION, "offset": 0}
        )
        own.filter(payload=name).update(published_at=DatabaseNow() - timedelta(minutes=5), **place)


def elsewhere(*messages: Message) -> None:
    """Published messages, the first of them to a partition that nobody reads."""
    sent(*messages)
    own = OutboxMessage.objects.filter(source=settings.source)
    own.filter(payload=messages[0][0]).update(partition=NO_PARTITION, offset=0)


def paused(event_type: str, *messages: Message) -> None:
    """Published messages of which this type is paused."""
    sent(*messages)
    pauses.pause(settings.consumer_group, event_type=event_type, reason="a test", by="a test", using="default")


def foreign(*messages: Message) -> None:
    """Records of another service; the second of two with the same name is a duplicate."""
    _produce([_foreign(*message) for message in messages])


def foreign_paused(event_type: str, *messages: Message) -> None:
    foreign(*messages)
    pauses.pause(settings.consumer_group, event_type=event_type, reason="a test", by="a test", using="default")


def foreign_and_unreadable(*messages: Message) -> None:
    """The same, and one that cannot be read."""
    record = _foreign("u1", "watched.effect")
    _produce([*(_foreign(*message) for message in messages), record._replace(value=b"{")])


def stored(*messages: Message) -> None:
    """Stored messages of the inbox, the first of which is due later."""
    get_broker(settings.broker).create_topics([settings.topic], partitions=2, replication=1)
    for number, (name, event_type) in enumerate(messages):
        event = Event(
            type=event_type,
            payload=name,
            key=name[0],
            topic=settings.topic,
            id=f"{settings.topic}/{name}",
            source=ELSEWHERE,
            partition=0,
            offset=number,
        )
        row = pending_row(event, settings.consumer_group, timedelta(hours=0 if number else 1))
        inbox.add([row], using="default")


def stored_paused(event_type: str, *messages: Message) -> None:
    """Stored messages of which this type is paused; the first is due now, too."""
    stored(*messages)
    InboxMessage.objects.filter(group=settings.consumer_group).update(next_retry_at=DatabaseNow())
    pauses.pause(settings.consumer_group, event_type=event_type, reason="a test", by="a test", using="default")


def half_open(handler: str, *messages: Message) -> None:
    """Published messages, and a pause of the circuit breaker that has just ended."""
    sent(*messages)
    Pause.objects.create(
        group=settings.consumer_group,
        handler=handler,
        reason="a test",
        created_by=pauses.BREAKER,
        until=DatabaseNow(),
    )


def plain(*texts: str) -> None:
    """Records that a mapper reads."""
    _produce([Record(settings.topic, b"k", text.encode()) for text in texts])


def _foreign(name: str, event_type: str) -> Record:
    headers = {
        "ce_specversion": "1.0",
        "ce_id": f"{settings.topic}/{name}",
        "ce_source": ELSEWHERE,
        "ce_type": event_type,
    }
    encoded = tuple((header, value.encode()) for header, value in headers.items())
    return Record(settings.topic, name[0].encode(), json.dumps(name).encode(), encoded)


def _produce(records: list[Record]) -> None:
    broker = get_broker(settings.broker)
    broker.create_topics([settings.topic], partitions=2, replication=1)
    producer = broker.producer(30)
    try:
        producer.send(records, 30)
    finally:
        producer.close()


def unguarded(self: Any, partitions: Any) -> None:
    """In place of ``PoisonGuard.begin``: the first records after the start are like any others."""


def unanswered(self: Any, offsets: Any) -> bool:
    """In place of ``GroupMember.commit_soon``: a broker that stores offsets waits for another one."""
    return False


def own_period(now: datetime) -> datetime:
    """In place of ``period_of()``: processes side by side have no activity of the same period."""
    return now
