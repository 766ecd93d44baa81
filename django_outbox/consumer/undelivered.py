"""Finds messages that Debezium will not deliver any more, and has the relay send them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta

from django_outbox.brokers.base import Progress, TopicPartition
from django_outbox.conf import settings
from django_outbox.state import undelivered as state
from django_outbox.state.dialects.results import LogPosition

MOST_REQUEUED = 10_000
"""In one transaction, while the consumer handles nothing. The next check continues."""
MISSING_SECONDS = 120.0
"""For how long a replication slot is missing before nothing is expected from it: its connector may still be sending."""


@dataclass(slots=True)
class _Search:
    """A search for the undelivered messages of a topic that were committed when it began.

    Attributes:
        began_at: on the clock.
        position: of the database's log then; None on other databases.
        is_sent: Debezium has sent all of them, or will never send the rest.
        ends: by partition, the end of its log after that.
    """

    began_at: float
    position: LogPosition | None
    is_sent: bool = False
    ends: Mapping[TopicPartition, int] | None = None


class Undelivered:
    """Searches, one at a time for each topic.

    A message that Debezium carries has no place in the log that could be compared. So a search waits until Debezium
    has confirmed the database's log up to where it was when the search began, then until the group has handled the
    topic up to where it ended after that. What is still published has been lost: Debezium was started too late, its
    slot was dropped, the topic was recreated, or the consumer skipped the record.
    """

    def __init__(self, clock: Callable[[], float], using: str) -> None:
        self._clock = clock
        self._using = using
        self._searches: dict[str, _Search] = {}
        self._missing_since: float | None = None

    def update(self) -> None:
        """See what Debezium has sent. Call it before the broker is asked for the ends of its logs.

        Raises:
            OperationalError, InterfaceError: the database is away.
        """
        unsent = [search for search in self._searches.values() if not search.is_sent]
        if not unsent:
            return
        position = self._position()
        is_missing = self._is_missing(position)
        if position is not None and any(each.position and position.written < each.position.written for each in unsent):
            # Another server took over, or a backup was restored: what was said of the log is not true of this one.
            self._searches.clear()
            return
        for search in unsent:
            if position is None or search.position is None or position.sent is None or is_missing:
                search.is_sent = is_missing
            else:
                search.is_sent = position.sent >= search.position.written

    def requeue_lost(
        self,
        topic: str,
        progress: Mapping[TopicPartition, Progress],
        read: Mapping[TopicPartition, int],
        *,
        age: timedelta,
        event_types: Collection[str] | None,
    ) -> int:
        """Begin, continue or end the search of a topic; returns how many messages were requeued.

        Args:
            progress: of the group in all partitions, asked for after ``update()``.
            read: by partition of this member, the offset up to which it has handled all.
            age: time since the publication before a search begins.
            event_types: types with a handler; None for all.
        """
        search = self._searches.get(topic)
        if search is None:
            if state.has_undelivered(topic, age=age, event_types=event_types, using=self._using):
                search = self._searches[topic] = _Search(self._clock(), self._position())
                self._is_missing(search.position)
            return 0
        if search.is_sent and search.ends is None:
            search.ends = {place: each.high for place, each in progress.items()}
        if search.ends is None or not all(
            # A topic that was recreated may end earlier.
            min(end, progress[place].high)
            <= max(progress[place].committed or 0, progress[place].low, read.get(place, 0))
            for place, end in search.ends.items()
            if place in progress
        ):
            return 0
        requeued = state.requeue_undelivered(
            topic,
            age=timedelta(seconds=self._clock() - search.began_at),
            horizon=search.position and search.position.horizon,
            event_types=event_types,
            most=MOST_REQUEUED,
            using=self._using,
        )
        if requeued < MOST_REQUEUED:
            del self._searches[topic]
        return requeued

    def _position(self) -> LogPosition | None:
        return state.log_position(settings.debezium.slot, using=self._using)

    def _is_missing(self, position: LogPosition | None) -> bool:
        """True if nothing is expected from Debezium: there has been no slot for a while or, with the relay, no connector."""
        exists = position is not None and position.sent is not None
        if exists and (position.is_active or settings.publisher == "debezium"):  # type: ignore[union-attr]
            self._missing_since = None
            return False
        if self._missing_since is None:
            self._missing_since = self._clock()
        return self._clock() - self._missing_since >= MISSING_SECONDS
