"""Rows, brokers and handlers for tests of the pipeline."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import connection, connections

from django_outbox.brokers.base import Producer, ReceivedRecord, Record, SendResult
from django_outbox.brokers.memory import MemoryBroker
from django_outbox.conf import BrokerSettings
from django_outbox.consumer.consumer import Consumer
from django_outbox.consumer.source import RoundCounts
from django_outbox.events.event import Event
from django_outbox.handlers.registry import Registry
from django_outbox.models import OutboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.relay.relay import Relay
from django_outbox.state import outbox as state
from django_outbox.state.dialects.results import Published
from django_outbox.state.transitions import mark_failed

Status = OutboxMessage.Status

_names = itertools.count()


def make_message(status: str = Status.PENDING, **fields: Any) -> OutboxMessage:
    """A stored message in any state, whole as the constraints want it."""
    if status != Status.PENDING:
        fields.setdefault("next_retry_at", None)
        fields.setdefault("publish_count", 1)
    if status == Status.CONSUMED:
        fields.setdefault("consumed_at", DatabaseNow())
    values = {"event_type": "order.created", "topic": "outbox", "payload": {"order": 1}, **fields}
    message = OutboxMessage.objects.create(status=status, **values)
    return OutboxMessage.objects.get(id=message.id)  # refresh_from_db() would leave deferred what MySQL does not return


def make_sent(**fields: Any) -> OutboxMessage:
    """A message whose record has a place."""
    return make_message("published", **{"partition": 2, "offset": 7, "publish_count": 3, **fields})


def make_due(*messages: OutboxMessage) -> None:
    """Let pending messages be due now, as if their wait were over."""
    OutboxMessage.objects.filter(id__in=[m.id for m in messages], status=Status.PENDING).update(
        next_retry_at=DatabaseNow()
    )


def row(message: OutboxMessage | int) -> OutboxMessage:
    """The message as the database has it now."""
    return OutboxMessage.objects.get(id=message if isinstance(message, int) else message.id)


def statuses() -> list[str]:
    """The state of every message, by id."""
    return list(OutboxMessage.objects.order_by("id").values_list("status", flat=True))


def memory_broker(**options: Any) -> MemoryBroker:
    """A broker of its own, with one partition unless told otherwise."""
    return MemoryBroker(BrokerSettings(url=f"memory://{next(_names)}", options={"partitions": 1, **options}))


def send(broker: MemoryBroker, *, value: bytes = b"{}", headers: Any = (), topic: str = "outbox") -> None:
    """Put any record into the log."""
    broker.missing_topics([topic])
    broker.producer(1).send([Record(topic, None, value, tuple(headers))], 1)


def put(broker: MemoryBroker, *records: ReceivedRecord) -> None:
    """Put records into the log as they are."""
    broker.missing_topics([each.topic for each in records])
    broker.producer(1).send([Record(each.topic, each.key, each.value, each.headers) for each in records], 1)


class ScriptedBroker(MemoryBroker):
    """A memory broker whose answers a test decides.

    ``answer`` gets the records and what the memory broker said of them, and returns or raises what
    the relay is to see.
    """

    def __init__(
        self, answer: Callable[[Sequence[Record], list[SendResult]], list[SendResult]], **options: Any
    ) -> None:
        super().__init__(BrokerSettings(url=f"memory://{next(_names)}", options={"partitions": 1, **options}))
        self.answer = answer
        self.producers: list[ScriptedProducer] = []

    def producer(self, timeout: float) -> Producer:
        producer = ScriptedProducer(self, super().producer(timeout))
        self.producers.append(producer)
        return producer


class ScriptedProducer(Producer):
    def __init__(self, broker: ScriptedBroker, real: Producer) -> None:
        self._broker = broker
        self._real = real
        self.is_usable = True
        self.closed = False

    @property
    def usable(self) -> bool:
        return self.is_usable

    def send(self, records: Iterable[Record], timeout: float) -> list[SendResult]:
        records = list(records)
        return self._broker.answer(records, self._real.send(records, timeout))

    def close(self) -> None:
        self.closed = True


class Pipeline:
    """A relay and a consumer around one broker, with handlers of the test's own.

    ``steady`` gives a consumer that has left the first deliveries after its start behind, which are
    handled ten at a time at most.
    """

    def __init__(
        self, broker: MemoryBroker | None = None, *, steady: bool = False, hold: int = 0, **consumer_options: Any
    ) -> None:
        """``hold``: how many messages may wait in the consumer's hand for an earlier one of their key."""
        self._steady = steady
        self._hold = hold
        self.broker = broker or memory_broker()
        self.handlers = Registry()
        self.handlers.load = lambda: None  # type: ignore[method-assign]
        self.handled: list[Event] = []
        self.relay = Relay(self.broker, using="default")
        self._consumer_options = consumer_options
        self._consumer: Consumer | None = None

    def on(self, event_type: str, function: Callable[..., Any] | None = None, **options: Any) -> None:
        """Handle events of a type; by default they are kept in ``handled``."""
        self.handlers.register(event_type, function or self.handled.append, **options)

    @property
    def consumer(self) -> Consumer:
        """Made at its first use, when the handlers are there."""
        if self._consumer is None:
            self._consumer = Consumer(self.broker, using="default", handlers=self.handlers, **self._consumer_options)
            self._consumer.lanes.most_waits = self._hold
            if self._steady:
                self._consumer.lanes.guard.records = 0
        return self._consumer

    def restart_consumer(self) -> None:
        """As after a crash: whatever was not committed is gone."""
        if self._consumer is not None:
            self._consumer.close()
        self._consumer = None

    def turn(self) -> RoundCounts:
        """One pass of the relay, then one batch of the consumer."""
        self.relay.run_once()
        return self.consumer.run_once()

    def run(self, turns: int = 20) -> None:
        """Turn until nothing moves any more."""
        for _ in range(turns):
            done = self.relay.run_once()
            batch = self.consumer.run_once()
            if not done.moved and not batch.received:
                return
        raise AssertionError(f"still moving after {turns} turns: {statuses()}")

    def deliver(self, message: OutboxMessage, **changes: Any) -> ReceivedRecord:
        """Put a record for a message into the log, as it is or forged; returns it."""
        from django_outbox.events.writer import Outgoing, encode
        from django_outbox.state.dialects.base import OUTGOING_COLUMNS

        outgoing = Outgoing(*OutboxMessage.objects.values_list(*OUTGOING_COLUMNS).get(id=message.id))
        record = encode(outgoing._replace(**changes), wire_format="cloudevents")
        self.broker.missing_topics([record.topic])
        self.broker.producer(1).send([record], 1)
        return self.broker.records(record.topic)[-1]


@contextmanager
def in_thread(work: Callable[[], Any]) -> Iterator[threading.Thread]:
    """Run ``work`` beside the test on a connection of its own; an error in it fails the test."""
    errors: list[BaseException] = []

    def target() -> None:
        try:
            work()
        except BaseException as error:  # reported below, in the test's own thread
            errors.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(30)
        assert not thread.is_alive(), "the thread does not end"
        if errors:
            raise errors[0]


def is_waiting_for_a_lock() -> bool:
    """True if some other session of this PostgreSQL database waits for a lock."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")  # or this transaction sees old news
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return bool(cursor.fetchone()[0])


def fail(message: OutboxMessage, times: int = 1) -> str:
    """Let a published message fail, be published again and so on; returns its last state."""
    status = str(message.status)
    for _ in range(times):
        current = row(message)
        failed = mark_failed(state.in_delivery(current.id, current.publish_count, using="default"), "boom")
        status = status if failed is None else failed.status
        if status == Status.PENDING and times > 1:
            publish_again(message)
    return status


def publish_again(message: OutboxMessage, partition: int = 0, offset: int | None = None) -> None:
    current = row(message)
    state.mark_published([Published(current.id, current.publish_count + 1, partition, offset)], using="default")
