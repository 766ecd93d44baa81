"""The reconciler: finds published messages that no record will ever bring to a handler, and sends them again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta

from django_outbox.brokers.base import Broker, Subscription
from django_outbox.conf import settings
from django_outbox.exceptions import BrokerUnavailable, TopicNotReadable
from django_outbox.handlers.registry import GroupHandlers
from django_outbox.state import outbox as state
from django_outbox.worker.incident import Incident

log = logging.getLogger("django_outbox.consumer")

SECONDS = 30.0
LOST_AFTER = timedelta(seconds=30)


class Reconciler:
    """Compares what is published with what the broker holds and the group has read.

    A row that is still published is lost if the group has read past its record, or if the log does
    not hold that record: a topic that was made anew, a broker that lost its disk, records that were
    deleted before they were read, offsets that were set by hand, or a consumer that went past an event
    before it had a handler for it. It goes back to pending, uncounted.

    Each member of a group looks after the partitions that it has; who has the first one of a topic
    also looks after partitions that the topic no longer has.
    """

    def __init__(
        self,
        broker: Broker,
        handlers: GroupHandlers,
        clock: Callable[[], float],
        *,
        using: str,
        has_outage: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            broker: where the records are.
            handlers: those of the consumer group.
            clock: seconds, monotonic.
            using: alias of the database.
            has_outage: whether an outage of the broker is logged already.
        """
        self._has_outage = has_outage
        self._broker = broker
        self._handlers = handlers
        self._using = using
        self._clock = clock
        self._next_look_at = clock() + SECONDS
        self._incident = Incident(log, "Comparing with the broker", clock, level=logging.WARNING)

    def look_if_due(self, subscription: Subscription) -> int:
        """Look every 30 s, while no record is in hand; returns how many messages are sent again.

        A broker that does not answer, or that does not let this client ask, stops nothing: the next
        look finds as much.

        Raises:
            OperationalError, InterfaceError: the database is away; call again later.
        """
        if self._clock() < self._next_look_at:
            return 0
        self._next_look_at = self._clock() + SECONDS
        try:
            found = self._look(subscription)
        except BrokerUnavailable as error:
            if not self._has_outage():
                self._incident.report(str(error))
            return 0
        self._incident.resolve()
        return found

    def _look(self, subscription: Subscription) -> int:
        using, lost = self._using, 0
        untold: TopicNotReadable | None = None
        asked_at = self._clock()

        def age() -> timedelta:
            # What was published after the question is beyond the answer, however long this look takes.
            return LOST_AFTER + timedelta(seconds=self._clock() - asked_at)

        for place, progress in subscription.progress().items():
            types = None if settings.unknown_event == "dead" else self._handlers.types_of(place.topic)
            # Both, as what was committed may be of a topic that has been made anew since.
            read = min(progress.committed or 0, progress.position or 0)
            lost += self._told(
                state.requeue_lost(
                    place, max(read, progress.low), progress.high, age=age(), event_types=types, using=using
                ),
                f"{place.topic}[{place.partition}]",
            )
            if place.partition == 0:
                try:
                    partitions = len(self._broker.progress([place.topic], self._handlers.group))
                except TopicNotReadable as error:  # the others are looked at all the same
                    untold = error
                    continue
                if partitions:  # none: a broker that has just started, and does not know all yet
                    lost += self._told(
                        state.requeue_without_partition(
                            place.topic, partitions, age=age(), event_types=types, using=using
                        ),
                        f"{place.topic}, of partitions that it does not have",
                    )
        if untold is not None:
            raise untold
        return lost

    def _told(self, lost: int, place: str) -> int:
        if lost:
            log.warning(
                "%d messages of %s are sent again: they are published, but their records were passed or are gone.",
                lost,
                place,
                extra={"action": "reconciled"},
            )
        return lost
