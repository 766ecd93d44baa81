"""What a drain has done, and what it has left."""

from __future__ import annotations

from dataclasses import dataclass

from django_outbox.models import InboxMessage, OutboxMessage


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that is not finished, and why."""

    message: OutboxMessage | InboxMessage
    reason: str


@dataclass(frozen=True, slots=True)
class DrainResult:
    """What a drain has done.

    Attributes:
        published: records that the broker took; a message that is retried is sent again.
        consumed: messages whose handlers have run, counted for each consumer group.
        failed: failures that were counted, including last ones.
        dead: messages that are dead, with their error in ``last_error``.
        waiting: messages that are not finished, and why.
    """

    published: int
    consumed: int
    failed: int
    dead: tuple[OutboxMessage | InboxMessage, ...]
    waiting: tuple[Waiting, ...]
