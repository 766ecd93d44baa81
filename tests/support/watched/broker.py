"""A broker whose calls are steps: each method of the contract in ``brokers/base.py`` that reaches the broker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

from django_outbox.brokers.base import Producer, Record, Subscription
from django_outbox.brokers.kafka import KafkaBroker
from tests.support.watched.steps import AFTER, watch

LOCAL = frozenset(
    {
        "take_assigned",
        "is_assigned",
        "is_idle",
        "needs_new_client",
        "usable",
        "location",
        "on_revoked",
        "settings",
        "waiting",
    }
)
"""Members of the contract that reach no broker."""

WATCHED = {
    "Broker": ("missing_topics", "unreadable_topics", "progress", "topic_settings", "create_topics"),
    "Producer": ("close",),
    "Subscription": ("commit", "commit_soon", "pause", "caught_up", "progress", "close"),
}
"""Methods that are steps as they are."""

WRITTEN_OUT = {"Broker": ("producer", "subscribe"), "Producer": ("send",), "Subscription": ("poll",)}
"""Those that are written out below."""


def _as_step(of: str, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(*args: Any, **options: Any) -> Any:
        with watch.passing(watch.name(f"{of}.{name}")):
            return method(*args, **options)

    return call


def _watched(of: str, thing: Any) -> Any:
    for name in WATCHED[of]:
        setattr(thing, name, _as_step(of, name, getattr(thing, name)))
    return thing


class WatchedBroker(KafkaBroker):
    """Kafka, as the package uses it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        _watched("Broker", self)

    def producer(self, timeout: float) -> Producer:
        with watch.passing(watch.name("Broker.producer")):
            producer = super().producer(timeout)
        send = producer.send

        def watched_send(records: Iterable[Record], timeout: float) -> Any:
            # The records are made while they are sent, which is the work of the relay, not of the broker.
            name = watch.name("Producer.send")
            with watch.passing(name):
                return send(_taken(records, name), timeout)

        producer.send = watched_send  # type: ignore[method-assign]
        return _watched("Producer", producer)

    def subscribe(self, topics: Iterable[str], group: str) -> Subscription:
        with watch.passing(watch.name("Broker.subscribe")):
            subscription = super().subscribe(topics, group)
        poll = subscription.poll

        def watched_poll(timeout: float, limit: int) -> Any:
            name = watch.name("Subscription.poll")
            with watch.passing(name):
                records = poll(timeout, limit)
                if records:
                    watch.point(AFTER, f"{name} with records")
                return records

        subscription.poll = watched_poll  # type: ignore[method-assign]
        return _watched("Subscription", subscription)


def _taken(records: Iterable[Record], name: str) -> Iterator[Record]:
    """The records, with a point after the first of them: the client may have sent it or not."""
    for record in records:
        yield record
        watch.point(AFTER, f"{name} of the first record")
