"""Counts of one round of the consumer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from django_outbox.consumer.delivery import Outcome


@dataclass(slots=True)
class RoundCounts:
    """What happened to the records of one poll, and to due messages of the inbox.

    Attributes:
        received: records that were read.
        retried: due inbox messages (also counted in ``outcomes``).
        outcomes: deliveries by their outcome.
        stored: records that became inbox messages.
        inbox_consumed: consumed inbox messages (also counted in ``outcomes``).
    """

    received: int = 0
    retried: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    stored: int = 0
    inbox_consumed: int = 0

    def add_inbox(self, outcomes: Sequence[Outcome]) -> None:
        """Count outcomes of inbox messages."""
        self.outcomes.update(outcomes)
        self.inbox_consumed += outcomes.count(Outcome.CONSUMED)

    @property
    def consumed(self) -> int:
        return self.outcomes[Outcome.CONSUMED]

    @property
    def failed(self) -> int:
        return self.outcomes[Outcome.FAILED]

    @property
    def dead(self) -> int:
        return self.outcomes[Outcome.DEAD]

    @property
    def requeued(self) -> int:
        return self.outcomes[Outcome.REQUEUED]

    @property
    def skipped(self) -> int:
        return self.outcomes[Outcome.SKIPPED]

    @property
    def progress(self) -> dict[str, int]:
        """The counts by the names of ``MessageCounts``."""
        return {
            "consumed": self.consumed - self.inbox_consumed,
            "inbox_received": self.stored,
            "inbox_consumed": self.inbox_consumed,
        }
