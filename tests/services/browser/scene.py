"""A shop's busy night: its shipping met a bug, a service next door sends what cannot be read, a consumer was killed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from django.utils import timezone

from django_outbox.brokers.base import TopicPartition
from django_outbox.brokers.kafka import KafkaBroker
from django_outbox.handlers.handler import Handler
from django_outbox.handlers.registry import registry
from django_outbox.models import Activity, InboxMessage, MessageFailure, OutboxMessage, Pause, Worker
from django_outbox.models.fields import DatabaseNow
from django_outbox.operations import lag
from django_outbox.state.pauses import pause
from django_outbox.worker.heartbeat import period_of
from tests.support.inbox import make_received
from tests.support.outbox import make_message
from tests.support.pages import act, make_dead, make_failure
from tests.unit.operations.test_lag import Progress

NOW = DatabaseNow()
MINUTE = timedelta(minutes=1)

NO_WEIGHT = "shop.errors.NoWeight in shop.shipping.handlers.ship"
ERROR = """shop.errors.NoWeight: no parcel weight for grand-piano

  File "/srv/shop/shipping/handlers.py", line 31, in ship
    weight = weight_of(event.payload["item"])
  File "/srv/shop/shipping/weights.py", line 12, in weight_of
    raise NoWeight(f"no parcel weight for {item}")"""
TIMED_OUT = "TimeoutError in shop.mail.handlers.queue_mail"
NO_INVOICE = "shop.models.Invoice.DoesNotExist in shop.books.handlers.enter"
UNREADABLE = "It cannot be read: the value is not JSON."

LANES: dict[str, dict[str, Any]] = {
    "shop-consumer-1": {
        "lanes": 16,
        "busy_lanes": 9,
        "in_progress": 31,
        "busy_since": NOW - timedelta(seconds=21),
        "busy_key": "orders: 4018",
    },
    "shop-consumer-2": {"lanes": 16},
}
HANDLERS = (
    ("order.created", "shop.shipping.handlers.ship", None),
    ("order.created", "shop.mail.handlers.queue_mail", None),
    ("order.shipped", "shop.mail.handlers.queue_mail", None),
    ("invoice.paid", "shop.books.handlers.enter", "books"),
)


class Night(NamedTuple):
    """What is looked at more closely.

    Attributes:
        dead: a dead letter of the outbox.
        unreadable: one of the inbox, which could not be read.
        pause: of a handler.
    """

    dead: OutboxMessage
    unreadable: InboxMessage
    pause: Pause


def make_night(settings: Any, monkeypatch: pytest.MonkeyPatch, client: Any, django_user_model: Any) -> Night:
    settings.OUTBOX = {**settings.OUTBOX, "TOPIC": "orders", "CONSUMER_GROUP": "shop"}
    registry.load()  # or it would add those of the tests later
    monkeypatch.setattr(registry, "_handlers", [_handler(*each) for each in HANDLERS])
    _broker(monkeypatch)
    _messages()
    messages = [_dead(number) for number in range(7)]
    unreadable = _inbox()
    _history()
    _workers()
    root = django_user_model.objects.create_superuser("grace", password="x")
    client.force_login(root)
    act(client, "retry", make_dead(topic="orders"), reason="mail server is back")
    OutboxMessage.objects.filter(topic="orders", event_type="order.created", status="dead", last_error="").delete()
    mail = pause("shop", handler=HANDLERS[1][1], reason="mail server is down", by="grace", using="default")
    return Night(messages[-1], unreadable, mail)


def _handler(event_type: str, name: str, group: str | None) -> Handler:
    def handle(event: Any) -> None: ...

    handle.__module__, _, handle.__qualname__ = name.rpartition(".")
    return Handler(event_type, handle, None, group)


def _broker(monkeypatch: pytest.MonkeyPatch) -> None:
    lag._queries.clear()
    offsets = {"shop": ((8410, 8406), (7932, 7931), (8127, 7893)), "books": ((8410, 8410), (7932, 7932), (8127, 8127))}
    monkeypatch.setattr(
        KafkaBroker,
        "progress",
        lambda self, topics, group: {
            TopicPartition("orders", n): Progress(0, end, done) for n, (end, done) in enumerate(offsets[group])
        },
        raising=False,
    )


def _messages() -> None:
    for number in range(20):
        make_message(
            "consumed", event_type="order.created", topic="orders", message_key=str(4000 + number), id=90_000 + number
        )
    for number in range(3):
        make_dead(
            event_type="order.shipped",
            topic="orders",
            message_key=f"42{number}9",
            last_error="TimeoutError: mail.example.com did not answer",
            fingerprint=TIMED_OUT,
            retry_count=20,
            updated_at=NOW - (number + 3) * 11 * MINUTE,
        )
    for number in range(4):
        message = make_message(
            event_type="order.created",
            topic="orders",
            message_key="4011" if number else "4012",
            created_at=NOW - (9 - number) * MINUTE,
            retry_count=0 if number else 4,
            last_error="" if number else ERROR,
            next_retry_at=NOW + MINUTE / 2,
        )
    make_failure(OutboxMessage.objects.get(id=message.id - 3), error=ERROR, fingerprint=NO_WEIGHT, attempt=4)
    make_message("published", event_type="order.created", topic="orders", message_key="77", published_at=NOW)


def _dead(number: int) -> OutboxMessage:
    message = make_dead(
        event_type="order.created",
        topic="orders",
        message_key=str(4011 + number),
        payload={
            "order_id": 4011 + number,
            "item": "grand-piano",
            "customer": {"email": "ada@example.com", "password": "correct horse"},
        },
        headers={"tenant": "north", "authorization": "Bearer 3f9a0c27d1"},
        last_error=ERROR,
        fingerprint=NO_WEIGHT,
        retry_count=3,
        max_retry=3,
        publish_count=3,
        partition=1,
        offset=7900 + number,
        created_at=NOW - (number + 8) * 6 * MINUTE,
        published_at=NOW - (number + 2) * 6 * MINUTE,
        updated_at=NOW - (number + 2) * 6 * MINUTE,
    )
    for attempt in (1, 2, 3):
        at = NOW - (number + 8 - 2 * attempt) * 6 * MINUTE
        make_failure(
            message,
            occurred_at=at,
            published_at=at,
            partition=1,
            offset=7600 + number + attempt,
            attempt=attempt,
            worker="shop-consumer-2:41",
            error=ERROR,
            fingerprint=NO_WEIGHT,
            final=attempt == 3,
        )
    return message


def _inbox() -> InboxMessage:
    for number in range(4):
        make_received("consumed", group="books", source="billing", event_type="invoice.paid", topic="invoices")
        message = make_received(
            "dead" if number else "pending",
            group="books",
            source="billing",
            event_type="invoice.paid",
            topic="invoices",
            message_key=f"R-{number + 31}",
            retry_count=20 if number else 6,
            last_error="shop.models.Invoice.DoesNotExist: Invoice matching query does not exist.",
            fingerprint=NO_INVOICE,
            created_at=NOW - (number + 20) * MINUTE,
            updated_at=NOW - (number + 8) * MINUTE,
            **({} if number else {"next_retry_at": NOW + MINUTE / 3}),
        )
        make_failure(message, attempt=6, final=bool(number), error=message.last_error, fingerprint=NO_INVOICE)
    unreadable = make_received(
        "dead",
        group="books",
        source="",
        event_id="invoices/0/1288",
        event_type="",
        topic="invoices",
        offset=1288,
        payload=None,
        headers={"content-type": "application/json"},
        raw_key=b"R-35",
        raw_value=b'{"invoice": "R-35", "paid": 1250.0',
        last_error=f"{UNREADABLE[:-1]}: Expecting ',' delimiter: line 1 column 35 (char 34).",
        fingerprint=UNREADABLE,
        created_at=NOW - 5 * MINUTE,
        updated_at=NOW - 5 * MINUTE,
    )
    make_failure(
        unreadable,
        final=True,
        error=unreadable.last_error,
        fingerprint=UNREADABLE,
        worker="shop-books-1:41",
        occurred_at=NOW - 5 * MINUTE,
    )
    return unreadable


def _history() -> None:
    now, last_id = timezone.now(), 76_000
    first = period_of(now) - timedelta(hours=24, minutes=10)
    for number in range(146):
        # More by day than by night, with a dent where the consumers were being deployed.
        written = 30 + abs(72 - number) ** 2 // 40 + number * 37 % 23
        last_id += written
        consumed = 0 if number in (96, 97) else written + 90 * (number in (98, 99))
        received = written // 3 + number * 17 % 5
        Activity.objects.create(
            period=first + number * 10 * MINUTE,
            last_id=last_id,
            published=written,
            consumed=consumed,
            inbox_received=received,
            inbox_consumed=received - (number % 40 == 7),
        )
    older = make_message("consumed", topic="orders", event_type="order.created")
    received = make_received("consumed", group="books", source="billing", event_type="invoice.paid", topic="invoices")
    for day, count in enumerate((1, 0, 0, 4, 2, 0, 9, 3, 0, 0, 1, 0, 2)):
        for number in range(count):
            failure = make_failure(received if number % 3 == 2 else older, final=True)
            MessageFailure.objects.filter(id=failure.id).update(occurred_at=now - timedelta(days=13 - day))


def _workers() -> None:
    for kind, group, host, rate, seen in (
        ("relay", "", "shop-relay-1", 41.2, 3),
        ("consumer", "shop", "shop-consumer-1", 22.7, 6),
        ("consumer", "shop", "shop-consumer-2", 18.4, 1),
        ("consumer", "shop", "shop-consumer-3", 0.0, 260),
        ("consumer", "books", "shop-books-1", 9.1, 4),
    ):
        Worker.objects.create(
            kind=kind,
            group=group,
            topics={"shop": "orders", "books": "invoices, orders"}.get(group, ""),
            host=host,
            pid=41,
            version="0.1.0",
            state="working",
            rate=rate,
            **LANES.get(host, {}),
            started_at=NOW - timedelta(hours=7),
            last_seen_at=NOW - timedelta(seconds=seen),
        )
