"""The lag of consumer groups, as far as the broker answers within the time that a page can wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from django_outbox.brokers.base import get_broker
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


class _Query:
    """Runs in its own thread. A broker that never answers costs one thread, not one for each page."""

    def __init__(self, ask: Callable[[], list[PartitionLag]]) -> None:
        self.result: GroupLag | None = None
        self.finished_at = 0.0
        self._ask = ask
        self._done = threading.Event()
        threading.Thread(target=self._run, name="outbox-lag", daemon=True).start()

    def _run(self) -> None:
        try:
            self.result = GroupLag(self._ask())
        except Exception as error:  # whatever the client raises, the page must be shown
            self.result = GroupLag([], in_one_line(error))
        self.finished_at = time.monotonic()
        self._done.set()

    def wait(self, seconds: float) -> GroupLag:
        self._done.wait(seconds)
        return self.result or NO_ANSWER


_lock = threading.Lock()
_queries: dict[Any, _Query] = {}


def lag_of_groups(
    topics: Mapping[str, Collection[str]],
    *,
    timeout: float = TIMEOUT_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, GroupLag]:
    """The lag of each group in its topics. ``NO_ANSWER`` if the broker does not answer in time.

    All groups are queried at once. Results are reused for a few seconds; a late one serves the next caller.

    Raises:
        ImproperlyConfigured: the settings name no usable broker.
    """
    queries = {group: _query(each, group, clock) for group, each in topics.items()}
    deadline = time.monotonic() + timeout
    return {group: query.wait(max(0.0, deadline - time.monotonic())) for group, query in queries.items()}


def _query(topics: Collection[str], group: str, clock: Callable[[], float]) -> _Query:
    broker = get_broker(settings.broker)
    key = (settings.broker.url, group, frozenset(topics))
    with _lock:
        query = _queries.get(key)
        if query is None or (query.result is not None and clock() - query.finished_at > FRESH_SECONDS):
            query = _queries[key] = _Query(lambda: _ask(broker, sorted(topics), group))
    return query


def _ask(broker: Any, topics: Collection[str], group: str) -> list[PartitionLag]:
    found = []
    for place, progress in broker.progress(topics, group).items():
        # Retention may have deleted records after the committed offset: the rest starts at the log's low end.
        start = progress.low if progress.committed is None else max(progress.committed, progress.low)
        lag = max(0, progress.high - start)
        found.append(PartitionLag(place.topic, place.partition, progress.committed, progress.high, lag))
    return sorted(found, key=lambda each: (-each.lag, each.topic, each.partition))
