"""A broker that fails when it is told to."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from django_outbox.brokers import memory
from django_outbox.brokers.base import Failed, Producer, ReceivedRecord, Record, Refused, SendResult, TopicPartition
from django_outbox.conf import BrokerSettings
from django_outbox.exceptions import BrokerUnavailable

OWN, FOREIGN = "outbox", "elsewhere"
GROUP = "tests"
_names = itertools.count()


class Killed(BaseException):
    """The process ends here: nothing that follows is run."""


class Broker(memory.MemoryBroker):
    """A memory broker with faults.

    Attributes:
        is_away: each call fails.
        answer: what happens to the next batch: "killed" (the relay, after sending), "unacknowledged", "cut" (after half of
            it), "failed" or "refused" (one of its records), or None.
        kills_commit: the next consumer that commits an offset is killed before.
        sent: the ids of the events that relays have sent, as they are or were in the log.
        on_answer: called with the failed or refused record.
    """

    def __init__(self) -> None:
        super().__init__(BrokerSettings(url=f"memory://model-{next(_names)}", options={"partitions": 2}))
        self.is_away = False
        self.answer: str | None = None
        self.kills_commit = False
        self.sent: list[str] = []
        self.on_answer: Callable[[Record, str], None] = lambda record, answer: None
        self.missing_topics([OWN, FOREIGN])

    def require(self) -> None:
        if self.is_away:
            raise BrokerUnavailable("it is away.")

    def producer(self, timeout: float) -> Producer:
        self.require()
        return _Producer(self)

    def subscribe(self, topics: Iterable[str], group: str) -> Any:
        self.require()
        return _Subscription(self, frozenset(topics), group)

    def progress(self, topics: Iterable[str], group: str) -> Any:
        self.require()
        return super().progress(topics, group)

    @property
    def group(self) -> Any:
        return self.cluster.groups.setdefault(GROUP, memory._Group())

    def append(self, record: ReceivedRecord | Record) -> None:
        """Somebody writes a record, whatever state the broker has for this service."""
        memory._Producer(self).send([Record(record.topic, record.key, record.value, record.headers)], 1)

    def lose(self, place: TopicPartition, offset: int) -> None:
        """Replace a record by one that is nobody's."""
        self.cluster.logs[place][offset] = replace(
            self.cluster.logs[place][offset], key=None, value=b"{}", headers=NOISE
        )

    def recreate(self) -> None:
        """Lose all records of the outbox's topic, and what the group has committed."""
        with self.cluster.changed:
            self.cluster.rebalance(self.group)
            for place in self.cluster.places([OWN]):
                self.cluster.logs[place].clear()
                self.group.committed.pop(place, None)
            self.cluster.rebalance(self.group)


def event_id_of(record: Record | ReceivedRecord) -> str:
    return dict(record.headers)["ce_id"].decode()


NOISE = (("ce_specversion", b"1.0"), ("ce_id", b"noise"), ("ce_source", b"noise"), ("ce_type", b"noise"))


class _Producer(memory._Producer):
    _broker: Broker

    def send(self, records: Iterable[Record], timeout: float) -> list[SendResult]:
        records = list(records)
        self._broker.require()
        answer, self._broker.answer = self._broker.answer, None
        if answer == "cut":
            super().send(records[: (len(records) + 1) // 2], timeout)
        elif answer in ("failed", "refused") and records:
            # One that others of its key come after, if there is one.
            keys = [record.key for record in records]
            at = next((place for place, key in enumerate(keys) if key and key in keys[place + 1 :]), 0)
            self._broker.on_answer(records[at], answer)
            result = Failed("it failed") if answer == "failed" else Refused("it is refused")
            before, after = super().send(records[:at], timeout), super().send(records[at + 1 :], timeout)
            return [*before, result, *after]
        else:
            results = super().send(records, timeout)
        if answer == "killed":
            raise Killed
        if answer in ("cut", "unacknowledged"):
            raise BrokerUnavailable("it went away.")
        return results

    def _append(self, record: Record, missing: set[str]) -> SendResult:
        self._broker.sent.append(event_id_of(record))
        return super()._append(record, missing)


class _Subscription(memory._Subscription):
    def __init__(self, broker: Broker, topics: frozenset[str], group: str) -> None:
        self._broker = broker
        super().__init__(broker.cluster, topics, group)

    def poll(self, timeout: float, limit: int) -> list[ReceivedRecord]:
        self._broker.require()
        return super().poll(timeout, limit)

    def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        self._broker.require()
        if self._broker.kills_commit:
            self._broker.kills_commit = False
            raise Killed
        return super().commit(offsets)
