"""The size of a batch: it grows while the relay is behind, so that fewer round trips are left for each message."""

from __future__ import annotations

from collections.abc import Sequence

from django_outbox.events.writer import Outgoing

MOST_CLAIMS = 8
MOST_CHARACTERS = 4_000_000
"""Of payload, or bytes, after which a batch takes no further claim. So it holds one claim more than this at most."""
LOCK_SECONDS = 0.4
"""How long a large batch may lock its rows. Other relays take one that locks rows for half a second to be stalled."""


class BatchGrowth:
    """How many claims of ``RELAY_BATCH_SIZE`` messages the next batch may have.

    Twice as many after a batch that was full, sent in whole and fast; half as many after a slow one; one after any other.
    """

    def __init__(self) -> None:
        self.claims = 1

    def has_room(self, claims: int, messages: Sequence[Outgoing]) -> bool:
        """True if a batch of so many claims, with these messages so far, may have another one."""
        if claims >= self.claims:
            return False
        size = sum([len(message.payload_json) + len(message.raw_value or b"") for message in messages])
        return size < MOST_CHARACTERS

    def record(self, seconds: float, *, is_full: bool) -> None:
        """Record how long a batch locked its rows; ``is_full``: its first claim was full, and all messages were sent."""
        if not is_full:
            self.claims = 1
        elif seconds > LOCK_SECONDS:
            self.claims = max(self.claims // 2, 1)
        elif seconds <= LOCK_SECONDS / 2:
            self.claims = min(self.claims * 2, MOST_CLAIMS)
