"""The reconciler: finds published messages whose records were lost or skipped, and requeues them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from datetime import timedelta

from django_outbox.brokers.base import Broker, Progress, Subscription, TopicPartition
from django_outbox.conf import settings
from django_outbox.consumer.in_hand import InHand
from django_outbox.consumer.undelivered import Undelivered
from django_outbox.exceptions import BrokerUnavailable, TopicNotReadable
from django_outbox.handlers.registry import GroupHandlers
from django_outbox.observability.instrumentation import requeued
from django_outbox.state import outbox as state
from django_outbox.worker.incident import Incident
from django_outbox.worker.outage_log import OutageLog

log = logging.getLogger("django_outbox.consumer")

INTERVAL_SECONDS = 30.0
LOST_AFTER = timedelta(seconds=30)


class Reconciler:
    """Compares published rows with the broker's logs and this member's positions.

    A row that is still published is lost if this member has read past its record, or if the log does not hold the
    record: the topic was recreated, the broker lost its disk, records expired, offsets were set manually, or the
    consumer had no handler for the event yet. The row goes back to pending, and no retry is counted.

    Each member of a group checks its own partitions. The member with the first partition of a topic also checks
    partitions that the topic no longer has, and messages that Debezium carries.
    """

    def __init__(
        self,
        broker: Broker,
        handlers: GroupHandlers,
        clock: Callable[[], float],
        in_hand: InHand,
        *,
        using: str,
        outages: OutageLog,
    ) -> None:
        self._broker = broker
        self._handlers = handlers
        self._clock = clock
        self._using = using
        self._outages = outages
        self._in_hand = in_hand
        self._next_check_at = clock() + INTERVAL_SECONDS
        # Since the last check, which found these, a poll has waited for records of all partitions in vain.
        self._has_stood_still = False
        self._last: dict[TopicPartition, Progress] = {}
        self._undelivered = Undelivered(clock, using)
        self._incident = Incident(log, "Comparing with the broker", clock, level=logging.WARNING)

    def stand_still(self) -> None:
        """Note that the member has waited for records of all its partitions, and got none."""
        self._has_stood_still = True

    def check_if_due(self, subscription: Subscription) -> None:
        """Check every 30 s.

        If the broker does not answer or denies access, the next check finds the same messages.

        Raises:
            OperationalError, InterfaceError: the database is away; call again later.
        """
        if self._clock() < self._next_check_at:
            return
        self._next_check_at = self._clock() + INTERVAL_SECONDS
        try:
            self._check(subscription)
        except BrokerUnavailable as error:
            if not self._outages.is_active:  # otherwise the outage is logged already
                self._incident.report(str(error))
        else:
            self._incident.resolve()

    def _check(self, subscription: Subscription) -> None:
        unknown: TopicNotReadable | None = None
        began_at = self._clock()

        def age() -> timedelta:
            # Excludes what was published after the broker answered, however long this check takes.
            return LOST_AFTER + timedelta(seconds=self._clock() - began_at)

        self._undelivered.update()
        found = subscription.progress()
        read = {place: self._read(place, progress) for place, progress in found.items()}
        for place, progress in found.items():
            topic, using = place.topic, self._using
            types = None if settings.unknown_event == "dead" else self._handlers.types_of(topic)
            lost = state.requeue_lost(place, read[place], progress.high, age=age(), event_types=types, using=using)
            lost += self._requeue_passed(place, read[place], progress, age(), types)
            _log_lost(lost, f"{topic}[{place.partition}]")
            if place.partition == 0:
                try:
                    partitions = self._broker.progress([topic], self._handlers.group)
                except TopicNotReadable as error:  # raised after the other topics are checked
                    unknown = error
                    continue
                if partitions:  # a broker that has just started may not know any
                    lost = state.requeue_without_partition(
                        topic, len(partitions), age=age(), event_types=types, using=using
                    )
                    _log_lost(lost, f"{topic}, in partitions that no longer exist")
                    lost = self._undelivered.requeue_lost(topic, partitions, read, age=age(), event_types=types)
                    _log_lost(lost, topic, "Debezium did not deliver them, or their records were skipped or lost")
        self._has_stood_still = False
        self._last = dict(found)
        if unknown is not None:
            raise unknown

    def _requeue_passed(
        self, place: TopicPartition, first: int, progress: Progress, age: timedelta, types: Collection[str] | None
    ) -> int:
        """Requeue what names an offset between the first record in hand and the position, and is not in hand.

        It was in a log that is gone. A message in hand may wait for it, so it would be found only much later.
        """
        position = min(progress.position or 0, progress.high)
        if first >= position or self._in_hand.first_unfinished(place) is None:
            return 0
        return state.requeue_passed(
            place, first, position, self._in_hand.own_ids(place), age=age, event_types=types, using=self._using
        )

    def _read(self, place: TopicPartition, progress: Progress) -> int:
        """The offset up to which this member has handled all."""
        # Before its position, or before the first record in hand. The committed offset may be of a topic that was
        # recreated since.
        unfinished = self._in_hand.first_unfinished(place)
        read = max(progress.position or 0, progress.low)
        if unfinished is not None:
            return min(read, unfinished)
        if self._has_stood_still and progress == self._last.get(place):
            # It had time to read, and has read nothing since the last check: an end behind its position is that of a log
            # that is gone. A busy member may not have come to this partition yet.
            return max(read, progress.high)
        return read


def _log_lost(lost: int, where: str, why: str = "their records were skipped or lost") -> None:
    if lost:
        requeued("lost", lost)
        log.warning(
            "%d published messages of %s were requeued: %s.",
            lost,
            where,
            why,
            extra={"action": "reconciled"},
        )
