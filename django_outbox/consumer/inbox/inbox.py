"""The inbox of one consumer group: fresh records, and the stored messages that are due."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from django.core.exceptions import ImproperlyConfigured

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.consumer.delivery import Outcome
from django_outbox.consumer.engine import TIME_BUDGET_SECONDS, Engine
from django_outbox.consumer.inbox.arrivals import ArrivalSource
from django_outbox.consumer.inbox.reader import Reader
from django_outbox.consumer.inbox.stored import Stored, StoredSource
from django_outbox.handlers.registry import GroupHandlers
from django_outbox.models.lengths import GROUP_LENGTH


class Inbox:
    """Handles what has no row in this service's outbox, or is for a group that handlers name."""

    def __init__(self, engine: Engine, *, using: str, handlers: GroupHandlers, clock: Callable[[], float]) -> None:
        """
        Args:
            engine: runs the handlers.
            using: alias of the database with the inbox.
            handlers: those of the consumer group.
            clock: seconds, monotonic.

        Raises:
            ImproperlyConfigured: the group's name is too long, or ``INBOX`` is wrong.
        """
        group = handlers.group
        if len(group) > GROUP_LENGTH:
            raise ImproperlyConfigured(
                f"The consumer group {group[:20]!r}... has {len(group)} characters; {GROUP_LENGTH} are allowed."
            )
        reader = Reader(using=using, wants=handlers.want, takes_own=handlers.apart)
        self._engine = engine
        self._clock = clock
        self._stored = StoredSource(using, handlers, reader)
        self._arrivals = ArrivalSource(using, handlers, reader, self._stored)
        self.takes_all = handlers.apart
        """True if all records are for this inbox, those of this service's own outbox as well."""

    def receive(
        self, records: Sequence[ReceivedRecord], is_stopping: Callable[[], bool] = lambda: False
    ) -> list[Outcome]:
        """Handle the first of some fresh records; see ``Engine.handle``."""
        return self._engine.handle(self._arrivals, records, is_stopping)

    def receive_counted(self, record: ReceivedRecord) -> Outcome:
        """Handle one fresh record whose predecessor may have killed the process: its delivery is committed first."""
        row_id = self._arrivals.store_counted(record)
        if isinstance(row_id, Outcome):
            return row_id
        if row_id is None:
            return self._engine.handle_alone(self._arrivals, record)
        outcome = self._handle(Stored(row_id, record))
        if outcome is not Outcome.REQUEUED:
            return outcome
        # It was read only now, and is an event: handle that.
        return self._handle_claimed(self._stored.claim_due(only=row_id)) or outcome

    def run_due(self, limit: int) -> list[Outcome]:
        """Handle stored messages that are due, the longest due first.

        Args:
            limit: the most messages to look at. It ends earlier after about a second.

        Raises:
            OperationalError, InterfaceError: the database is away; call again later.
        """
        deadline = self._clock() + TIME_BUDGET_SECONDS
        outcomes: list[Outcome] = []
        while len(outcomes) < limit and not (outcomes and self._clock() >= deadline):
            outcome = self._handle_claimed(self._stored.claim_due())
            if outcome is None:
                break
            outcomes.append(outcome)
        return outcomes

    def has_due(self) -> bool:
        """True if a stored message is due."""
        return self._stored.has_due()

    def _handle_claimed(self, claimed: Stored | Outcome | None) -> Outcome | None:
        return self._handle(claimed) if isinstance(claimed, Stored) else claimed

    def _handle(self, item: Stored) -> Outcome:
        outcome = self._engine.handle_alone(self._stored, item)
        self._stored.done_with(item)
        return outcome
