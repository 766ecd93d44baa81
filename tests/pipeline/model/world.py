"""The pipeline with two relays, two consumers, a broker and a database, all of which fail when they are told to."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.db import connection, connections, transaction
from django.db.models import F

from django_outbox import Event, Reject, Retry, publish
from django_outbox.brokers.base import Record
from django_outbox.consumer.consumer import Consumer
from django_outbox.consumer.lanes import Lanes
from django_outbox.events.writer import Outgoing, encode
from django_outbox.exceptions import BrokerUnavailable
from django_outbox.handlers.registry import Registry
from django_outbox.models import InboxMessage, OutboxMessage, Pause
from django_outbox.relay.relay import Relay
from django_outbox.state.dialects.base import OUTGOING_COLUMNS
from tests.pipeline.model.broker import FOREIGN, OWN, Broker, Killed
from tests.support.app.models import Effect
from tests.support.clock import Clock
from tests.support.processes import wait_until

Kill = tuple[str, int]
"""The kind of a write, and how many of that kind come before the kill."""
WRITES = {"insert": re.compile(r"\bINSERT\b"), "update": re.compile(r"(?<!FOR )\bUPDATE\b")}


class World:
    """What the test drives."""

    def __init__(self, lanes: int, plan: Callable[[int, int], str | None]) -> None:
        """
        Args:
            lanes: of the second consumer.
            plan: what the handler does with a message at an attempt: "fail", "retry", "reject", "die" or None.
        """
        self.clock = Clock(1000.0)
        self.broker = Broker()
        self.handlers = Registry()
        self.handlers.load = lambda: None  # type: ignore[method-assign]
        self.handlers.register("order.created", self._handle)
        self.runs: list[tuple[int, int, str | None]] = []
        """Message, attempt and outcome of each call of a handler since the last step."""
        self._plan = plan
        self._lock = threading.Lock()
        self._lanes = lanes
        self._relays = [self._relay(number) for number in range(2)]
        self._consumers: list[Consumer | None] = [None, None]
        self._publishers = [ThreadPoolExecutor(1) for _ in range(2)]
        self._transactions: dict[int, transaction.Atomic] = {}

    def _relay(self, number: int) -> Relay:
        return Relay(self.broker, using="default", batch_size=(2, 50)[number], clock=self.clock)

    def _handle(self, event: Event) -> None:
        n = event.payload["n"]
        outcome = self._plan(n, event.attempt)
        with self._lock:
            self.runs.append((n, event.attempt, outcome))
        Effect.objects.create(name=str(n), event_id=event.id)
        if outcome == "fail":
            raise ArithmeticError("boom")
        if outcome == "retry":
            raise Retry(delay=5)
        if outcome == "reject":
            raise Reject("nobody wants it")
        if outcome == "die":
            raise Killed

    # Relays

    def relay(self, number: int, kill: Kill | None = None) -> None:
        """One pass, killed at a write if told so."""
        try:
            with killed_at(kill):
                self._relays[number].run_once()
        except BrokerUnavailable:
            pass
        except Killed:
            self._relays[number] = self._relay(number)

    # Consumers

    def join(self, number: int) -> Consumer:
        consumer = self._consumers[number]
        if consumer is None:
            lanes = self._lanes if number else 1
            consumer = self._consumers[number] = Consumer(
                self.broker,
                using="default",
                topics=(OWN, FOREIGN),
                batch_size=10,
                concurrency=lanes,
                handlers=self.handlers,
                clock=self.clock,
            )
            if number:  # as one that has been at work for a while
                consumer.lanes.guard.records = 0
        return consumer

    def consume(self, number: int, kill: Kill | None = None) -> None:
        """One round, killed at a write if told so; with threads, until they have nothing to do."""
        consumer = self.join(number)
        lanes = consumer.lanes
        try:
            with killed_at(None if lanes.are_threads else kill):
                consumer.run_once()
                if lanes.are_threads:
                    self._wait(lanes)
                    consumer.run_once()  # commits the offsets, and raises what a lane raised
                    self._wait(lanes)
                    if lanes._fault:
                        consumer.run_once()
        except BrokerUnavailable:
            pass
        except Killed:
            self.kill(number)

    def _wait(self, lanes: Lanes) -> None:
        """Wait until nothing runs beside the test."""
        wait_until(lambda: lanes._fault or not lanes.active, what="the lanes are idle")

    def kill(self, number: int) -> None:
        """End a consumer that commits nothing any more."""
        consumer, self._consumers[number] = self._consumers[number], None
        if consumer is not None:
            consumer.lanes.close()
            consumer._leave()

    def stop(self, number: int) -> None:
        """End a consumer as by SIGTERM."""
        consumer, self._consumers[number] = self._consumers[number], None
        if consumer is not None:
            try:
                consumer.close()
            except Killed:
                consumer._leave()

    # The application

    def begin(self, publisher: int) -> None:
        """Begin a transaction that is still open when others work."""
        self._transactions[publisher] = transaction.atomic()
        self._publishers[publisher].submit(self._transactions[publisher].__enter__).result(60)

    def publish_in(self, publisher: int, n: int, key: str) -> str:
        """Publish in the transaction that is open, over a connection of its own."""
        return self._publishers[publisher].submit(send_own, n, key, 0.0).result(60)

    def end(self, publisher: int, *, commit: bool) -> None:
        def end() -> None:
            transaction.set_rollback(not commit)
            self._transactions.pop(publisher).__exit__(None, None, None)

        self._publishers[publisher].submit(end).result(60)

    def pass_time(self, seconds: float) -> None:
        """Let everything be so much longer ago, as the database's clock cannot be moved."""
        self.clock.now += seconds
        ago = timedelta(seconds=seconds)
        OutboxMessage.objects.filter(next_retry_at__isnull=False).update(next_retry_at=F("next_retry_at") - ago)
        OutboxMessage.objects.filter(published_at__isnull=False).update(published_at=F("published_at") - ago)
        InboxMessage.objects.filter(next_retry_at__isnull=False).update(next_retry_at=F("next_retry_at") - ago)
        Pause.objects.update(created_at=F("created_at") - ago)

    def close(self) -> None:
        for publisher in self._publishers:
            publisher.submit(connections.close_all).result(60)
            publisher.shutdown()
        self.broker.is_away = False
        for number in range(2):
            self.kill(number)


def send_own(n: int, key: str, delay: float) -> str:
    """Publish; returns the event's id."""
    return str(publish("order.created", {"n": n}, key=key, max_retry=3, delay=delay).event_id)


def forged(row: OutboxMessage, **changes: Any) -> Record:
    """A record of a message, with other content."""
    outgoing = Outgoing(*OutboxMessage.objects.values_list(*OUTGOING_COLUMNS).get(id=row.id))
    return encode(outgoing._replace(**changes), wire_format="cloudevents")


@contextmanager
def killed_at(kill: Kill | None) -> Iterator[None]:
    """Raise ``Killed`` instead of a write. A kill at any other statement leaves the same behind."""
    if kill is None:
        yield
        return
    pattern, left = WRITES[kill[0]], itertools.count(kill[1], -1)

    def execute(run: Callable[..., Any], sql: str, *arguments: Any) -> Any:
        if pattern.search(str(sql)) and next(left) == 0:
            raise Killed
        return run(sql, *arguments)

    with connection.execute_wrapper(execute):
        yield
