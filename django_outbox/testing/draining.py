"""Runs relay and consumers in the test's process until nothing is left to do."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial

from django.db import connections, transaction
from django.test import override_settings

from django_outbox import signals
from django_outbox.brokers.base import Record, Refused
from django_outbox.brokers.memory import MemoryBroker
from django_outbox.conf import BrokerSettings, settings
from django_outbox.consumer.consumer import Consumer
from django_outbox.events.debezium import publishes
from django_outbox.events.writer import Outgoing, encode
from django_outbox.handlers.registry import GroupHandlers, registry
from django_outbox.models import OutboxMessage, outbox_database
from django_outbox.observability.logging import repeats
from django_outbox.relay.relay import Relay
from django_outbox.state import outbox as state
from django_outbox.state.dialects.base import OUTGOING_COLUMNS
from django_outbox.testing.dead_messages import DeadMessages
from django_outbox.testing.failing import DrainHandler
from django_outbox.testing.limiting import Limit
from django_outbox.testing.moving_time import MovingTime, Row
from django_outbox.testing.on_commit import run_on_commit
from django_outbox.testing.results import DrainResult
from django_outbox.testing.waiting import require_finished, unfinished

LONGEST_FILLING_SECONDS = 86400.0
MOST_IDLE_MOVES = 100
"""A message waits in a consumer for a minute at most, looked at every second."""
MOST_TRIES = 3
"""The circuit breaker lets a message wait twice before it is tried."""

_numbers = itertools.count()


def drain(
    *,
    raise_errors: bool = True,
    max_wait: timedelta | float | None = None,
    limit: int = 1000,
    using: str | None = None,
) -> DrainResult:
    """Send all messages and run their handlers, in this process, until each message is consumed or dead.

    It needs no broker. It moves time: if messages wait, for a retry or because of their ``delay``, it brings their due
    times nearer in the database, so a failing handler is retried at once, and is dead after ``MAX_RETRY`` failures.

    In a ``TestCase``, functions registered with ``transaction.on_commit()`` run as well: first those that the test has
    registered until now, then those of handlers.

    Args:
        raise_errors: raise the error of the first message that is dead, once nothing else is left to do, and an
            ``AssertionError`` if messages are left that more time would not finish. With False, the result lists both.
        max_wait: seconds or a timedelta by which time may move, 0 for not at all; None moves it as far as necessary.
            Batches that are not full are handled in the end, however long they would wait for more.
        limit: how many messages may be published while it runs, and how often one may fail. More would never end.
        using: alias of the database; None asks the database router.

    Raises:
        RuntimeError: in a ``transaction.atomic()`` block of the test's own, where messages are not committed yet.
        AssertionError: ``limit`` is exceeded. With ``raise_errors``, also if a message is dead without an error of a
            handler or, without ``max_wait``, not finished for a reason other than ``Waiting.is_held``.
        Exception: with ``raise_errors``, what the handler of a dead message raised.
    """
    __tracebackhide__ = True
    return run_pipeline((), raise_errors=raise_errors, max_wait=max_wait, limit=limit, using=using or outbox_database())


def run_pipeline(
    records: Iterable[Record], *, raise_errors: bool, max_wait: timedelta | float | None, limit: int, using: str
) -> DrainResult:
    """As ``drain()``, with records that other services have sent.

    Raises:
        ValueError: the broker refuses a record, because of its payload.
    """
    __tracebackhide__ = True
    _require_committed(using)
    if isinstance(max_wait, timedelta):
        max_wait = max_wait.total_seconds()
    # A handler that hangs, or is debugged, must not end the process of the tests.
    with override_settings(OUTBOX={**settings.raw, "HANDLER_TIMEOUT": None}), _opened(using, limit) as pipeline:
        pipeline.send(records)
        pipeline.run(max_wait)
        result = pipeline.result()
    if raise_errors and pipeline.dead.error is not None:
        raise pipeline.dead.error
    if raise_errors and max_wait is None:
        require_finished(result)
    return result


def _require_committed(using: str) -> None:
    try:
        with transaction.atomic(using=using, durable=True):
            pass
    except RuntimeError:
        if not connections[using].in_atomic_block:  # pytest-django denies access to the database
            raise
        raise RuntimeError(
            "drain() or deliver() was called in a transaction.atomic() block, whose messages are not committed. Call it "
            "after the block."
        ) from None


class Pipeline:
    """A relay, and a consumer for each group of the project, around a broker of their own."""

    def __init__(self, broker: MemoryBroker, using: str, limit: int) -> None:
        registry.load()
        self.time = MovingTime(using)
        self.dead = DeadMessages(using)
        self._broker = broker
        self._using = using
        self.limit = Limit(limit, using)
        self._errors: dict[str, Exception] = {}  # the last one of the handlers, by event id
        self._relay = Relay(broker, using=using, clock=self.time)
        self._consumers = [
            Consumer(broker, using=using, group=group, concurrency=1, handlers=registry, clock=self.time)
            for group in registry.groups
        ]
        for consumer in self._consumers:
            consumer.handlers.replace_each(partial(DrainHandler.of, errors=self._errors))
            consumer.lanes.guard.records = 0  # nothing has killed this process, so batches may be full
        self._carried: set[int] = set()  # messages that Debezium would have sent
        self._published = self._consumed = self._failed = 0
        self._has_progress = False
        self._due: set[Row] = set()  # after the last move of time
        self._tries: Counter[Row] = Counter()  # in vain, since the last progress
        self._idle_moves = 0

    def close(self) -> None:
        for consumer in self._consumers:
            consumer.close()
        self._relay.close()

    def send(self, records: Iterable[Record]) -> None:
        """Append records to the broker's log.

        Raises:
            ValueError: the broker refuses one.
        """
        for result in self._broker.producer(0).send(records, 0):
            if isinstance(result, Refused):
                raise ValueError(f"payload: {result.reason}")

    def run(self, max_wait: float | None) -> None:
        """Work, and move time, until nothing is left that time would change."""
        run_on_commit(self._using)
        self._requeue_unhandled()
        self.limit.begin()
        while True:
            self._work()
            seconds = self._seconds_to_move()
            if seconds is None or (max_wait is not None and self.time.moved + max(seconds, 0.0) > max_wait):
                break
            self.time.move(seconds)
        self._empty_hands()

    def _empty_hands(self) -> None:
        """Handle batches that are not full, and store what waits in a consumer: the next drain has other consumers."""
        for _ in range(MOST_IDLE_MOVES):
            if not (waits := self._waits_in_hand()):
                return
            self.time.move_clock(min(waits))
            self._work()

    def result(self) -> DrainResult:
        return DrainResult(
            published=self._published,
            consumed=self._consumed,
            failed=self._failed,
            dead=self.dead.messages,
            waiting=tuple(unfinished(self.time.due_in(), registry, errors=self._errors, using=self._using)),
        )

    def _requeue_unhandled(self) -> None:
        """Requeue what was sent before and not handled, uncounted: the broker that took it is gone."""
        handlers = GroupHandlers(registry, settings.consumer_group)
        for topic in handlers.default_topics:
            rows = state.published([topic], handlers.types_of(topic), using=self._using)
            if publishes(self._using):
                rows = rows.exclude(partition=None)  # which _carry() sends
            state.requeue_all(rows, self._using)

    def _work(self) -> None:
        """Let relay and consumers take turns until none of them finds anything to do."""
        is_moving = True
        while is_moving:
            is_moving = any([self._carry(), self._send(), *map(self._handle, self._consumers)])
            self.limit.check()

    def _send(self) -> bool:
        done = self._relay.run_once()
        run_on_commit(self._using)
        self._published += done.published
        self._failed += done.failed
        self._has_progress |= bool(done.failed or done.dead)
        return self._relay.load_schemas() or done.moved

    def _handle(self, consumer: Consumer) -> bool:
        consumer.inbox_due_at = self.time()
        done = consumer.run_once()
        run_on_commit(self._using)
        self._consumed += done.consumed
        self._failed += done.failed
        self._has_progress |= bool(done.consumed or done.failed or done.dead)
        return bool(done.received or done.retried)

    def _carry(self) -> bool:
        """Send what Debezium would read from the database's log, with ``PUBLISHER = "debezium"``."""
        if not publishes(self._using):
            return False
        rows = OutboxMessage.objects.using(self._using).own().published().filter(partition=None)
        found = [Outgoing(*row) for row in rows.order_by("id").values_list(*OUTGOING_COLUMNS)]
        new = [each for each in found if each.id not in self._carried and self._is_accepted(each)]
        self._carried.update(each.id for each in new)
        first = [each._replace(publish_count=each.publish_count - 1) for each in new]
        self.send(encode(each, wire_format="cloudevents") for each in first)
        self._published += len(new)
        return bool(new)

    def _is_accepted(self, message: Outgoing) -> bool:
        """False if no consumer would look at it: it stays published, and each drain would send it again."""
        about = message.event_type, message.topic
        return any(message.topic in each.topics and each.handlers.accepts(*about) for each in self._consumers)

    def _seconds_to_move(self) -> float | None:
        """How long until a message is due, or is looked at again; None if that would change nothing.

        A message that was due several times and is pending again, with no failure counted, changes only after some other
        one has: it is paused, or waits for a dead one.
        """
        due_in = self.time.due_in()
        if self._has_progress:
            self._tries.clear()
            self._idle_moves = 0
        else:
            self._tries.update(self._due)
            self._idle_moves += 1
        self._has_progress = False
        waits = [seconds for row, seconds in due_in.items() if self._tries[row] < MOST_TRIES]
        if self._idle_moves < MOST_IDLE_MOVES:
            waits += self._waits_in_hand()
        if not waits:
            return None
        seconds = max(0.0, min(waits))
        self._due = {row for row, wait in due_in.items() if wait <= seconds}
        return seconds

    def _waits_in_hand(self) -> list[float]:
        in_hand = [consumer.lanes for consumer in self._consumers if consumer.lanes]
        return [max(1.0, lanes.poll_seconds(LONGEST_FILLING_SECONDS)) for lanes in in_hand]


@contextmanager
def _opened(using: str, limit: int) -> Iterator[Pipeline]:
    """A pipeline around a broker of its own, so nothing is left of it in the next one."""
    url = f"memory://drain-{next(_numbers)}"
    with ExitStack() as stack:
        stack.callback(MemoryBroker.clear, url)
        stack.callback(repeats.sum_up, now=True)
        pipeline = Pipeline(MemoryBroker(BrokerSettings(url=url, options={"partitions": 1})), using, limit)
        stack.callback(pipeline.close)
        for signal, receiver in (
            (signals.message_dead, pipeline.dead.add),
            (signals.message_failed, pipeline.limit.add_failure),
        ):
            signal.connect(receiver)
            stack.callback(signal.disconnect, receiver)
        yield pipeline
