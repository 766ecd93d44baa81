"""The lag of consumer groups, as far as the broker answers within the time that a page can wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from django_outbox.brokers.calls import Call
from django_outbox.brokers.loading import get_broker
from django_outbox.conf import settings
from django_outbox.exceptions import in_one_line

TIMEOUT_SECONDS = 2.0
FRESH_SECONDS = 5.0


class PartitionLag(NamedTuple):
    """The unread records of one partition. ``committed``: None if the group has committed nothing."""

    topic: str
    partition: int
    committed: int | None
    end: int
    lag: int


class GroupLag(NamedTuple):
    """The lag of a group, or why it is unknown."""

    partitions: list[PartitionLag]
    trouble: str = ""

    @property
    def lag(self) -> int:
        return sum(partition.lag for partition in self.partitions)


NO_ANSWER = GroupLag([], f"No answer within {TIMEOUT_SECONDS:g} s.")


Query = Call[tuple[GroupLag, float]]
"""Its result has the time when it ended."""

_lock = threading.Lock()
_queries: dict[Any, Query] = {}


def lag_of_groups(
    topics: Mapping[str, Collection[str]],
    *,
    timeout: float = TIMEOUT_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, GroupLag]:
    """The lag of each group in its topics. ``NO_ANSWER`` if the broker does not answer in time.

    All groups are queried at once. Results are reused for a few seconds; a late one serves the next caller. A broker that
    never answers costs one thread for each group, not one for each page.

    Raises:
        ImproperlyConfigured: the settings name no usable broker.
    """
    queries = {group: _query(each, group, clock) for group, each in topics.items()}
    deadline = time.monotonic() + timeout
    for query in queries.values():
        query.wait(max(0.0, deadline - time.monotonic()))
    return {group: _ended(query)[0] if query.is_done else NO_ANSWER for group, query in queries.items()}


def _query(topics: Collection[str], group: str, clock: Callable[[], float]) -> Query:
    """The query that runs, or whose result is fresh; else a new one."""
    broker = get_broker(settings.broker)

    def ask() -> tuple[GroupLag, float]:
        try:
            return GroupLag(_ask(broker, sorted(topics), group)), time.monotonic()
        except BaseException as error:  # whatever the client raises, the page must be shown
            return GroupLag([], in_one_line(error)), time.monotonic()

    key = (settings.broker.url, group, frozenset(topics))
    with _lock:
        query = _queries.get(key)
        if query is None or (query.is_done and clock() - _ended(query)[1] > FRESH_SECONDS):
            query = _queries[key] = Call(ask)
    return query


def _ended(query: Query) -> tuple[GroupLag, float]:
    return query.result(0, lambda: False)


def _ask(broker: Any, topics: Collection[str], group: str) -> list[PartitionLag]:
    found = []
    for place, progress in broker.progress(topics, group).items():
        # Retention may have deleted records after the committed offset: the rest starts at the log's low end.
        start = progress.low if progress.committed is None else max(progress.committed, progress.low)
        lag = max(0, progress.high - start)
        found.append(PartitionLag(place.topic, place.partition, progress.committed, progress.high, lag))
    return sorted(found, key=lambda each: (-each.lag, each.topic, each.partition))
