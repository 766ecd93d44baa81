"""Claims: which due messages a relay locks and reads next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from django_outbox.conf import settings
from django_outbox.events.writer import Outgoing
from django_outbox.state.dialects import dialect_of
from django_outbox.state.dialects.base import Dialect, Place
from django_outbox.state.dialects.postgresql import START, PostgreSQL
from django_outbox.state.dialects.results import Unsent
from django_outbox.state.ordering import holds_behind_dead

LOOK_BACK_SECONDS = 1.0
LONGEST_WALK_SECONDS = 600.0  # for which claims may begin behind messages whose partitions wait
STALLED_SECONDS = 0.5  # a relay that locks a batch for longer is slow or stuck


class Claimed(NamedTuple):
    """Messages by due time, locked until the transaction ends."""

    messages: list[Outgoing]
    pending_before: list[Unsent] | None = None  # of their keys; None if they have not been queried yet


def claims_of(using: str, clock: Callable[[], float]) -> Claims:
    """Return the claims for a database."""
    dialect = dialect_of(using)
    return PostgresqlClaims(dialect, clock) if isinstance(dialect, PostgreSQL) else Claims(dialect, clock)


class Claims:
    """Locks and reads due messages, batch by batch."""

    is_skipping = False
    """True while claims skip messages that are blocked by rows which other relays have locked."""

    def __init__(self, dialect: Dialect, clock: Callable[[], float]) -> None:
        self._dialect = dialect
        self._clock = clock
        self._is_full = self._is_at_end = False
        self._behind: Place | None = None  # where claims begin, behind messages that wait for their partition
        self._next: Place | None = None  # behind the last claim
        self._behind_since = self._behind_until = 0.0

    def claim(self, limit: int, excluded_topics: Sequence[str]) -> Claimed:
        """Lock and read up to ``limit`` messages, by due time."""
        if self._clock() >= self._behind_until:
            self._behind = None
        if self._behind is None:
            claimed = self._claim_first(limit, excluded_topics)
        else:
            claimed = self._claim_behind(limit, excluded_topics, self._behind)
            if claimed.messages:
                self._next = self._dialect.place_after(claimed.messages[-1].id)
        self._is_full = len(claimed.messages) == limit
        return claimed

    def pass_over(self, waiting_id: int | None) -> bool:
        """Begin the next claims behind messages that wait for their partition: they would fill every batch.

        These are passed over with the later ones of their keys. Others may become due ahead of that place. So claims
        begin at the first due message again some time after they reached the last one, ten times as long as that took.

        Args:
            waiting_id: the last message of the last claim that waits; None if none does.

        Returns:
            False if no message was passed over since the beginning.
        """
        now = self._clock()
        if self._behind is not None:
            self._behind = self._next
        elif waiting_id is not None:
            self._behind = self._next = self._dialect.place_after(waiting_id)
            self._behind_since, self._behind_until = now, now + LONGEST_WALK_SECONDS
            self._is_at_end = False
        else:
            return False
        if not self._is_full and not self._is_at_end:
            self._is_at_end = True
            self._behind_until = now + max(LOOK_BACK_SECONDS, 10 * (now - self._behind_since))
        return True

    def begin_again(self) -> None:
        """Begin the next claim at the first due message: other partitions wait now."""
        self._behind = None

    def _claim_first(self, limit: int, excluded_topics: Sequence[str]) -> Claimed:
        return Claimed(self._dialect.claim(limit, excluded_topics))

    def _claim_behind(self, limit: int, excluded_topics: Sequence[str], place: Place) -> Claimed:
        return Claimed(self._dialect.claim(limit, excluded_topics, place))

    def claim_more(self, limit: int, excluded_topics: Sequence[str]) -> list[Outgoing]:
        """Lock and read messages after those of the last claim, in the same transaction, if that claim was full.

        Nothing here: only on PostgreSQL does a batch take several claims.
        """
        return []

    def is_due(self, excluded_topics: Sequence[str]) -> bool:
        """True if a message is due, even one that another relay has locked."""
        return self._dialect.is_due(excluded_topics)

    def skip_blocked(self, blocked_by: Mapping[int, int]) -> bool:
        """Skip the last claim for up to a second if most of it is blocked by stalled relays; True if it is skipped.

        Args:
            blocked_by: for each blocking message, by id, how many messages of the last claim it blocks.
        """
        return False


class PostgresqlClaims(Claims):
    """Claims on PostgreSQL: they start where an earlier claim did.

    The index has a dead entry before the due messages for each message published since the last vacuum, and a claim
    from the start would scan all of them. Messages may become due before the start at any time, so a claim scans from
    the beginning of the index once a second, and whenever the batch is not full.
    """

    _dialect: PostgreSQL
    expects_full = True
    """True if the last claim from the start of the index was a full batch, and before the first one."""

    def __init__(self, dialect: PostgreSQL, clock: Callable[[], float]) -> None:
        super().__init__(dialect, clock)
        self._begin = START
        self._begin_until = 0.0
        self._last_id = 0
        self._blocking_since: dict[int, float] = {}

    def _claim_behind(self, limit: int, excluded_topics: Sequence[str], place: Place) -> Claimed:
        self._dialect.plan_for_full_batch()
        return super()._claim_behind(limit, excluded_topics, place)

    def _claim_first(self, limit: int, excluded_topics: Sequence[str]) -> Claimed:
        if self.expects_full:
            self._dialect.plan_for_full_batch()
        if self._begin is not START and self._clock() < self._begin_until:
            claimed = self._claim(limit, excluded_topics)
            if len(claimed.messages) == limit or self.is_skipping:
                return claimed
        self._begin, self.is_skipping = START, False
        claimed = self._claim(limit, excluded_topics)
        expected, self.expects_full = self.expects_full, len(claimed.messages) == limit
        if self.expects_full:
            if not expected:
                self._dialect.plan_for_full_batch()
            self._begin_at(self._dialect.place_of(claimed.messages[0].id))
        return claimed

    def claim_more(self, limit: int, excluded_topics: Sequence[str]) -> list[Outgoing]:
        if not self.expects_full or self.is_skipping or self._behind is not None:
            return []
        messages = self._dialect.claim(limit, excluded_topics, self._dialect.place_after(self._last_id))
        self._is_full = len(messages) == limit
        if messages:
            self._last_id = messages[-1].id
        return messages

    def is_due(self, excluded_topics: Sequence[str]) -> bool:
        is_due = self._dialect.is_due(excluded_topics)
        self.is_skipping = self.is_skipping and is_due  # other relays may have sent the rest
        return is_due

    def skip_blocked(self, blocked_by: Mapping[int, int]) -> bool:
        if self._behind is not None:  # they are blocked by those that wait
            return False
        now = self._clock()
        known = self._blocking_since
        since = {id: known.get(id, now) for id in blocked_by}
        # While skipping, a claim does not show all blocking messages.
        self._blocking_since = known | since if self.is_skipping else since
        by_stalled = sum(number for id, number in blocked_by.items() if now - since[id] >= STALLED_SECONDS)
        was_skipping, self.is_skipping = self.is_skipping, 2 * by_stalled > sum(blocked_by.values())
        if self.is_skipping:
            self._begin_at(self._dialect.place_after(self._last_id))
        elif was_skipping:  # the blocking messages were skipped themselves and are free now
            self._begin = START
        return self.is_skipping

    def _begin_at(self, place: Place) -> None:
        self._begin = place
        self._begin_until = self._clock() + LOOK_BACK_SECONDS

    def _claim(self, limit: int, excluded_topics: Sequence[str]) -> Claimed:
        # A full batch has a faster query for blocking messages, and a dead message may hold its key as well.
        if self.expects_full or settings.ordering != "key" or holds_behind_dead():
            claimed = Claimed(self._dialect.claim(limit, excluded_topics, self._begin))
        else:
            claimed = Claimed(*self._dialect.claim_with_pending(limit, excluded_topics, self._begin))
        if claimed.messages:
            self._last_id = claimed.messages[-1].id
        return claimed
