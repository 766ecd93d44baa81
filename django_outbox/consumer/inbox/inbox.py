"""The inbox of one consumer group: handles fresh records, and stored messages that are due."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from copy import copy
from functools import partial
from typing import NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.consumer.engine import Engine
from django_outbox.consumer.inbox.arrivals import ArrivalSource
from django_outbox.consumer.inbox.reader import Reader
from django_outbox.consumer.inbox.stored import Stored, StoredSource
from django_outbox.consumer.pauses import Pauses
from django_outbox.consumer.source import Outcome
from django_outbox.handlers.registry import GroupHandlers
from django_outbox.models import InboxMessage
from django_outbox.models.lengths import GROUP_LENGTH
from django_outbox.worker.transactions import retry_transaction


class Due(NamedTuple):
    """A stored message that is due.

    ``is_suspect`` is true if it was being handled when a process died.
    """

    id: int
    key: tuple[str, bytes] | None
    is_suspect: bool


class Inbox:
    """Handles records without a row in this service's outbox, and all records of a group that handlers name."""

    def __init__(self, *, using: str, handlers: GroupHandlers, pauses: Pauses) -> None:
        """
        Raises:
            ImproperlyConfigured: the group's name is too long, or ``INBOX`` is wrong.
        """
        group = handlers.group
        if len(group) > GROUP_LENGTH:
            raise ImproperlyConfigured(
                f"The consumer group {group[:20]!r}... has {len(group)} characters; {GROUP_LENGTH} are allowed."
            )
        reader = Reader(using=using, accepts=handlers.accepts_foreign, accepts_own=handlers.uses_inbox)
        self._engine: Engine  # set by with_engine()
        self._messages = InboxMessage.objects.using(using).filter(group=group)
        self._stored = StoredSource(using, handlers, reader, pauses)
        self._arrivals = ArrivalSource(using, handlers, reader, self._stored, pauses)
        self.takes_all = handlers.uses_inbox
        """True if this inbox handles all records, also those of this service's own outbox."""
        self.uses_mapper = reader.uses_mapper
        self.take_wait = reader.take_wait

    def with_engine(self, engine: Engine) -> Inbox:
        """The same inbox for one lane, which handles its messages by this engine."""
        other = copy(self)
        other._engine = engine
        return other

    def receive(
        self, records: Sequence[ReceivedRecord], is_stopping: Callable[[], bool] = lambda: False
    ) -> list[Outcome]:
        """Handle fresh records, as many as fit in one transaction; see ``Engine.handle``."""
        return self._engine.handle(self._arrivals, records, is_stopping)

    def receive_counted(self, record: ReceivedRecord) -> Outcome:
        """Handle one fresh record that may have killed the previous process: its delivery is counted and committed first.

        Not if it waits for a schema registry, which killed nothing.
        """
        # Another consumer that has the record, too, may have its row in hand: InnoDB reports that as a deadlock.
        stored = retry_transaction(partial(self._arrivals.store_counted, record), using=self._messages.db)
        if stored is None:
            return self._engine.handle_alone(self._arrivals, record)
        if isinstance(stored, Outcome):
            return stored
        outcome = self.handle(stored)
        if outcome is Outcome.WAITING:
            self._stored.uncount(stored)
        if outcome is Outcome.REQUEUED:  # if it was read only now, it carries an event to handle
            return self.handle_due(stored.id) or outcome
        return outcome

    def due(self, limit: int, in_hand: Collection[int] = ()) -> list[Due]:
        """The stored messages that are due and that nobody handles now, the most overdue first.

        Args:
            in_hand: ids to leave out.
        """
        if not self.has_due():  # one query without a transaction, as mostly nothing is due
            return []
        unlocked = self._messages.due().select_for_update(skip_locked=True)
        if in_hand:
            unlocked = unlocked.exclude(id__in=in_hand)
        with transaction.atomic(using=self._messages.db):
            rows = list(unlocked.values_list("id", "topic", "message_key", "delivery_count")[:limit])
        return [Due(id, (topic, key.encode()) if key else None, bool(count)) for id, topic, key, count in rows]

    def has_due(self) -> bool:
        """True if a stored message is due."""
        return self._messages.due().exists()

    def handle_due(self, id: int) -> Outcome | None:
        """Handle a stored message: its delivery is counted and committed first.

        Returns:
            The outcome; None if the message is not due any more, or another consumer handles it.
        """
        stored = retry_transaction(partial(self._stored.claim_due, id), using=self._messages.db)
        if not isinstance(stored, Stored):
            return stored
        outcome = self.handle(stored)
        return self._stored.postpone(stored) if outcome is Outcome.WAITING else outcome

    def handle(self, stored: Stored) -> Outcome:
        """Handle a stored message whose delivery is counted."""
        outcome = self._engine.handle_alone(self._stored, stored)
        if outcome is not Outcome.WAITING:
            self._stored.survived.discard(stored.id)
        return outcome
