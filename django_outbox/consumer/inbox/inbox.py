"""The inbox of one consumer group: handles fresh records, and stored messages that are due."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from django.core.exceptions import ImproperlyConfigured

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.consumer.engine import TIME_BUDGET_SECONDS, Engine
from django_outbox.consumer.inbox.arrivals import ArrivalSource
from django_outbox.consumer.inbox.reader import Reader
from django_outbox.consumer.inbox.stored import Stored, StoredSource
from django_outbox.consumer.pauses import Pauses
from django_outbox.consumer.source import Outcome
from django_outbox.handlers.registry import GroupHandlers
from django_outbox.models import InboxMessage
from django_outbox.models.lengths import GROUP_LENGTH


class Inbox:
    """Handles records without a row in this service's outbox, and all records of a group that handlers name."""

    def __init__(
        self, engine: Engine, *, using: str, handlers: GroupHandlers, pauses: Pauses, clock: Callable[[], float]
    ) -> None:
        """
        Raises:
            ImproperlyConfigured: the group's name is too long, or ``INBOX`` is wrong.
        """
        group = handlers.group
        if len(group) > GROUP_LENGTH:
            raise ImproperlyConfigured(
                f"The consumer group {group[:20]!r}... has {len(group)} characters; {GROUP_LENGTH} are allowed."
            )
        reader = Reader(using=using, accepts=handlers.accepts, accepts_own=handlers.uses_inbox)
        self._engine = engine
        self._clock = clock
        self._messages = InboxMessage.objects.using(using).filter(group=group)
        self._stored = StoredSource(using, handlers, reader, pauses)
        self._arrivals = ArrivalSource(using, handlers, reader, self._stored, pauses)
        self.takes_all = handlers.uses_inbox
        """True if this inbox handles all records, also those of this service's own outbox."""

    def receive(
        self, records: Sequence[ReceivedRecord], is_stopping: Callable[[], bool] = lambda: False
    ) -> list[Outcome]:
        """Handle fresh records, as many as fit in one transaction; see ``Engine.handle``."""
        return self._engine.handle(self._arrivals, records, is_stopping)

    def receive_counted(self, record: ReceivedRecord) -> Outcome:
        """Handle one fresh record that may have killed the previous process: its delivery is counted and committed first."""
        stored = self._arrivals.store_counted(record)
        if stored is None:
            return self._engine.handle_alone(self._arrivals, record)
        if isinstance(stored, Outcome):
            return stored
        outcome = self.handle(stored)
        if outcome is Outcome.REQUEUED:  # if it was read only now, it carries an event to handle
            return self._handle_due(only=stored.id) or outcome
        return outcome

    def run_due(self, limit: int) -> list[Outcome]:
        """Handle stored messages that are due, the most overdue first.

        Args:
            limit: of messages. After about a second it ends earlier.

        Raises:
            OperationalError, InterfaceError: the database is away; call again later.
        """
        deadline = self._clock() + TIME_BUDGET_SECONDS
        outcomes: list[Outcome] = []
        while len(outcomes) < limit and not (outcomes and self._clock() >= deadline):
            outcome = self._handle_due()
            if outcome is None:
                break
            outcomes.append(outcome)
        return outcomes

    def has_due(self) -> bool:
        """True if a stored message is due."""
        return self._messages.due().exists()

    def handle(self, stored: Stored) -> Outcome:
        """Handle a stored message whose delivery is counted."""
        outcome = self._engine.handle_alone(self._stored, stored)
        self._stored.survived.discard(stored.id)
        return outcome

    def _handle_due(self, only: int | None = None) -> Outcome | None:
        stored = self._stored.claim_due(only=only)
        return self.handle(stored) if isinstance(stored, Stored) else stored
