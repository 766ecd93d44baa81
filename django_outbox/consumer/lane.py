"""A lane of the consumer: handles messages in one thread, over its own database connection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from django_outbox.consumer.engine import Engine
from django_outbox.consumer.inbox.inbox import Inbox
from django_outbox.consumer.keyed_queue import Queued
from django_outbox.consumer.outbox import OutboxSource, OwnRecord
from django_outbox.consumer.source import Outcome
from django_outbox.worker.prepared_statements import PreparedStatements


class Kind(Enum):
    """What a lane handles."""

    OWN = auto()
    """An ``OwnRecord``: a record of this service's outbox."""
    FOREIGN = auto()
    """A ``ReceivedRecord`` for the inbox."""
    DUE = auto()
    """The id of a stored inbox message that is due."""


@dataclass(slots=True)
class RoundCounts:
    """What happened to records, and to due messages of the inbox.

    Attributes:
        received: records that were handled.
        retried: due inbox messages (also counted below).
        stored: records that became inbox messages.
        inbox_consumed: consumed inbox messages (also counted in ``consumed``).
        consumed, failed, dead, requeued, skipped: deliveries by their ``Outcome``.
    """

    received: int = 0
    retried: int = 0
    stored: int = 0
    inbox_consumed: int = 0
    consumed: int = 0
    failed: int = 0
    dead: int = 0
    requeued: int = 0
    skipped: int = 0

    def add(self, kind: Kind, outcomes: Sequence[Outcome]) -> None:
        outcomes = [outcome for outcome in outcomes if outcome is not Outcome.WAITING]
        for outcome, number in Counter(outcomes).items():
            setattr(self, outcome, getattr(self, outcome) + number)
        if kind is Kind.DUE:
            self.retried += len(outcomes)
        else:
            self.received += len(outcomes)
        if kind is Kind.FOREIGN:
            self.stored += len(outcomes) - outcomes.count(Outcome.SKIPPED)
        if kind is not Kind.OWN:
            self.inbox_consumed += outcomes.count(Outcome.CONSUMED)

    @property
    def progress(self) -> dict[str, int]:
        """The counts by the columns of ``Activity``."""
        return {
            "consumed": self.consumed - self.inbox_consumed,
            "inbox_received": self.stored,
            "inbox_consumed": self.inbox_consumed,
        }


class Lane:
    """Handles batches of the queue, one after the other."""

    def __init__(
        self, number: int, engine: Engine, outbox: OutboxSource, inbox: Inbox, prepared: PreparedStatements
    ) -> None:
        self.number = number
        self.engine = engine
        self.prepared = prepared
        self._outbox = outbox
        self._inbox = inbox

    def handle(self, batch: Sequence[Queued[Any]], is_stopping: Callable[[], bool]) -> list[Outcome]:
        """Handle the first item of a batch and, in the same transaction, some after it. Returns their outcomes.

        Raises:
            OperationalError, InterfaceError: the database is away; nothing changed.
        """
        first = batch[0]
        if first.kind is Kind.DUE:
            return [self._inbox.handle_due(first.item) or Outcome.SKIPPED]
        if first.kind is Kind.OWN:
            items: list[OwnRecord] = [queued.item for queued in batch]
            if first.guarded:
                self._outbox.count_deliveries(items)
            outcomes = self.engine.handle(self._outbox, items, is_stopping)
            if first.guarded:
                self._outbox.survived.difference_update(item.place for item in items[: len(outcomes)])
            return outcomes
        if first.guarded:
            return [self._inbox.receive_counted(first.item)]
        return self._inbox.receive([queued.item for queued in batch], is_stopping)


def text_of(key: Hashable) -> str:
    """A key of topic and bytes, for people; empty for any other key."""
    if type(key) is not tuple:
        return ""
    topic, name = key
    return f"{topic}: {name.decode(errors='replace')}"
