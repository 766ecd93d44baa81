"""What a drain has done, and what it has left."""

from __future__ import annotations

from dataclasses import dataclass

from django_outbox.models import InboxMessage, OutboxMessage


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that is not finished, and why.

    Attributes:
        is_held: it is paused, comes after another one of its key that is not finished, or belongs to a consumer group
            without handlers.
    """

    message: OutboxMessage | InboxMessage
    reason: str
    is_held: bool = False


@dataclass(frozen=True, slots=True)
class DrainResult:
    """What a drain has done.

    Attributes:
        published: records that the broker took; a message that is retried is sent again. Of those that Debezium would
            send, only records that a consumer handles or stores.
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
