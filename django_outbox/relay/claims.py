"""Claiming: which due messages a relay locks and reads next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from django_outbox.conf import settings
from django_outbox.events.writer import Outgoing
from django_outbox.state.dialects import dialect_of
from django_outbox.state.dialects.base import Dialect, Unsent
from django_outbox.state.dialects.postgresql import START, PostgreSQL
from django_outbox.state.ordering import holds_behind_dead

LOOK_BACK_SECONDS = 1.0
IN_HAND_SECONDS = 0.5  # so much longer than a batch takes that a relay which has one in hand is slow, or gone


class Claimed(NamedTuple):
    """Messages, locked until the transaction ends.

    Attributes:
        messages: by due time.
        pending_before: what is pending before them and not among them; None if nobody has looked yet.
    """

    messages: list[Outgoing]
    pending_before: list[Unsent] | None = None


def claims_of(using: str, clock: Callable[[], float]) -> Claims:
    """The way to claim messages that suits a database.

    Args:
        using: its alias.
        clock: seconds, monotonic.
    """
    dialect = dialect_of(using)
    return PostgresqlClaims(dialect, clock) if isinstance(dialect, PostgreSQL) else Claims(dialect)


class Claims:
    """Locks and reads due messages, batch by batch.

    Attributes:
        passes_over: that some are left out for now, as others have locked what comes before them.
    """

    passes_over = False

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    def claim(self, limit: int, without_topics: Sequence[str]) -> Claimed:
        """Lock and read up to ``limit`` messages, by due time."""
        return Claimed(self._dialect.claim(limit, without_topics))

    def is_due(self, without_topics: Sequence[str]) -> bool:
        """True if a message is due, even if another relay has locked it."""
        return self._dialect.is_due(without_topics)

    def pass_over(self, blocked_by: Mapping[int, int]) -> bool:
        """Begin behind the last claim, for a second at most, if most of it is blocked by what others have had in hand
        for long, and may have for as long as their broker takes; False if not.

        Args:
            blocked_by: ids of messages that are not in the last claim, each with how many it blocks there.
        """
        return False


class PostgresqlClaims(Claims):
    """The same on PostgreSQL.

    The index has an entry for each message that was published since the last vacuum, all before those that are due,
    and each claim would walk along them. So a claim begins where an earlier one did, but for one a second, and for
    those that find less than they may take: messages can become due further ahead at any time.

    Attributes:
        expects_much: that a full batch is due, as far as the last claim tells.
    """

    expects_much = True

    _dialect: PostgreSQL

    def __init__(self, dialect: PostgreSQL, clock: Callable[[], float]) -> None:
        super().__init__(dialect)
        self._clock = clock
        self._begin = START
        self._begin_until = 0.0
        self._last_id = 0
        self._blocking_since: dict[int, float] = {}

    def claim(self, limit: int, without_topics: Sequence[str]) -> Claimed:
        if self.expects_much:
            self._dialect.plan_for_much()
        if self._begin is not START and self._clock() < self._begin_until:
            claimed = self._claim(limit, without_topics)
            if len(claimed.messages) == limit or self.passes_over:
                return claimed
        self._begin, self.passes_over = START, False
        claimed = self._claim(limit, without_topics)
        expected, self.expects_much = self.expects_much, len(claimed.messages) == limit
        if self.expects_much:
            if not expected:
                self._dialect.plan_for_much()
            self._begin_at(claimed.messages[0].id)
        return claimed

    def is_due(self, without_topics: Sequence[str]) -> bool:
        is_due = self._dialect.is_due(without_topics)
        self.passes_over = self.passes_over and is_due  # others may have dealt with it
        return is_due

    def pass_over(self, blocked_by: Mapping[int, int]) -> bool:
        now = self._clock()
        known = self._blocking_since
        since = {id: known.get(id, now) for id in blocked_by}
        # While it passes over, a claim does not show all that blocks.
        self._blocking_since = known | since if self.passes_over else since
        for_long = sum(number for id, number in blocked_by.items() if now - since[id] >= IN_HAND_SECONDS)
        passed_over, self.passes_over = self.passes_over, 2 * for_long > sum(blocked_by.values())
        if self.passes_over:
            self._begin_at(self._last_id)
            due_at, id = self._begin
            self._begin = due_at, id + 1
        elif passed_over:  # what blocks was passed over itself and is free by now: further on is ever more behind it
            self._begin = START
        return self.passes_over

    def _begin_at(self, id: int) -> None:
        self._begin = self._dialect.place_of(id)
        self._begin_until = self._clock() + LOOK_BACK_SECONDS

    def _claim(self, limit: int, without_topics: Sequence[str]) -> Claimed:
        # A batch of many has better ways to look, and where dead messages count, they are looked for as well.
        if self.expects_much or settings.ordering != "key" or holds_behind_dead():
            claimed = Claimed(self._dialect.claim(limit, without_topics, self._begin))
        else:
            claimed = Claimed(*self._dialect.claim_and_look(limit, without_topics, self._begin))
        if claimed.messages:
            self._last_id = claimed.messages[-1].id
        return claimed
