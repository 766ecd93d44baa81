"""PostgreSQL's own statements: arrays instead of a parameter per row, text as the database has it, no query to compile."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter
from typing import Any

from django.db import connections

from django_outbox.conf import settings
from django_outbox.events.writer import Outgoing
from django_outbox.state.backoff import MAX_BACKOFF_SECONDS
from django_outbox.state.dialects.base import Dialect, Earlier, Key, Published, Unsent
from django_outbox.state.rows import LockedMessage

Place = tuple[str, int]
"""A due time and an id: a place in the order of claims."""
START = ("-infinity", 0)
"""In the order of claims, a place before all due times and ids."""
_UPDATE_SIZE = 5000
_MOST_PENDING_BEFORE = 1000  # of more, most are of other keys: two batches of other relays are less


# To the end of the transaction, read in the order of an index. Statistics are often of a time when nothing was pending;
# PostgreSQL would then read all that is pending, at each pass, to sort it. And plan for the very arrays at hand: of a
# prepared statement it may keep a plan that was made for a few.
PLAN_FOR_MUCH = """
    SELECT set_config('enable_sort', 'off', true), set_config('enable_bitmapscan', 'off', true),
           set_config('plan_cache_mode', 'force_custom_plan', true)
"""

# Lock due messages, passing over those that another relay has locked. The time comes as JSON, which is RFC 3339
# whatever the session's settings are.
CLAIM_DUE = """
    SELECT id, source, event_id::text, event_type, event_version, topic, message_key, headers::text,
           to_json(created_at AT TIME ZONE 'UTC')::text AS created_at, publish_count, payload::text
    FROM django_outbox_outboxmessage
    WHERE status = 'pending' AND source = %s AND next_retry_at <= statement_timestamp() AND topic <> ALL(%s)
      AND (next_retry_at, id) >= (%s::timestamptz, %s)
    ORDER BY next_retry_at, id
    LIMIT %s
    FOR UPDATE SKIP LOCKED
"""

# Whether there is anything to claim, in the order of claims, so that the same index answers it.
IS_DUE = """
    SELECT 1
    FROM django_outbox_outboxmessage
    WHERE status = 'pending' AND source = %s AND next_retry_at <= statement_timestamp() AND topic <> ALL(%s)
    ORDER BY next_retry_at, id
    LIMIT 1
"""

# Where a message stands in the order of claims.
PLACE = "SELECT next_retry_at::text, id FROM django_outbox_outboxmessage WHERE id = %s"

# What is unsent before the last message of a batch and not in it, whatever its key. Mostly there is nothing, which
# one walk along the index on ids of pending messages shows; asking key by key takes four times as long. That index has
# "status || ''" in its condition in order to be of use to no other statement. The comparisons that are always true let
# PostgreSQL expect a single entry, and so walk that index in order; a few it would collect and sort, however many there are.
_PENDING = "status || '' = 'pending' AND id - id = 0 AND id * 0 = 0"
PENDING_BEFORE = f"""
    SELECT topic, message_key, id, status, next_retry_at
    FROM django_outbox_outboxmessage
    WHERE {_PENDING} AND source = %s AND id < %s AND id <> ALL(%s::bigint[])
    ORDER BY id
    LIMIT %s
"""  # noqa: S608  # of a constant

# Both at once: of a single message, each is most of a round trip. What the first finds was committed after what its
# writer wrote before it, so one snapshot has either both or neither.
CLAIM_DUE_AND_PENDING_BEFORE = f"""
    WITH batch AS ({CLAIM_DUE})
    SELECT batch.*, NULL::timestamptz AS next_retry_at FROM batch
    UNION ALL (
        SELECT id, source, NULL, NULL, NULL, topic, message_key, NULL, NULL, NULL, NULL, next_retry_at
        FROM django_outbox_outboxmessage
        WHERE {_PENDING} AND source = %s AND id < (SELECT max(id) FROM batch WHERE message_key <> '')
          AND id NOT IN (SELECT id FROM batch)
        ORDER BY id
        LIMIT %s
    )
"""  # noqa: S608  # of constants

# For the last message of each topic and key in a batch, and for each state, the first message before
# it that is not in the batch; the largest ids first. In the order of ids alone, PostgreSQL would walk
# the primary key, through all that is finished, instead of the index on what is not.
UNSENT_BEFORE = """
    SELECT last.topic, last.message_key, earlier.id, earlier.status, earlier.next_retry_at
    FROM django_outbox_outboxmessage AS last
    CROSS JOIN unnest(%s::text[]) AS wanted(status)
    CROSS JOIN LATERAL (
        SELECT id, status, next_retry_at
        FROM django_outbox_outboxmessage AS message
        WHERE message.topic = last.topic
          AND message.message_key = last.message_key
          AND message.source = last.source
          AND message.status = ANY(ARRAY[wanted.status])
          AND message.status IN ('pending', 'dead')
          AND message.id < last.id
          AND message.id <> ALL(%s::bigint[])
        ORDER BY message.status, message.id
        LIMIT 1
    ) AS earlier
    WHERE last.id = ANY(%s::bigint[])
    ORDER BY earlier.id DESC
"""

# What is pending, whatever its key, and what is dead, key by key. Not by two statements: what an operator retries between
# them would be seen by neither.
PENDING_AND_DEAD_BEFORE = f"({PENDING_BEFORE}) UNION ALL ({UNSENT_BEFORE})"

# Lock what is behind some messages, in their keys, and due before them, but for what another relay has in hand. Behind
# a dead one only what is due: the rest waits already. Nothing of a batch is due before its first message, so a message
# that is due no later has nothing to look for: mostly another relay is sending it, and all of its key may be behind it.
LATER = """
    SELECT later.id, due.until::text
    FROM django_outbox_outboxmessage AS earlier
    CROSS JOIN LATERAL (
        SELECT coalesce(earlier.next_retry_at, statement_timestamp() + make_interval(secs => %s)) AS until
    ) AS due
    JOIN django_outbox_outboxmessage AS later
      ON later.topic = earlier.topic
     AND later.message_key = earlier.message_key
     AND later.source = earlier.source
     AND later.id > earlier.id
    WHERE earlier.id = ANY(%s::bigint[])
      AND earlier.status IN ('pending', 'dead')
      AND coalesce(earlier.next_retry_at, 'infinity') > coalesce(
          (SELECT next_retry_at FROM django_outbox_outboxmessage WHERE id = %s), '-infinity'
      )
      AND later.status = 'pending'
      AND later.next_retry_at < coalesce(earlier.next_retry_at, statement_timestamp())
    FOR UPDATE OF later SKIP LOCKED
"""

# Let these wait. Not in one statement with the former: with old statistics PostgreSQL joined a hundred thousand rows
# with all rows one by one.
POSTPONE = """
    UPDATE django_outbox_outboxmessage
    SET next_retry_at = %s::timestamptz, updated_at = statement_timestamp()
    WHERE id = ANY(%s::bigint[]) AND status LIKE 'pending'
"""

# Mark what the broker acknowledged, changing it from pending to published. The ids are said twice, and CASE is there
# instead of "=", as PostgreSQL would at times read all rows, or all that is pending, to join them with these few, or, if
# it believes that nothing is pending, compare each of them with each.
MARK_PUBLISHED = """
    UPDATE django_outbox_outboxmessage AS message
    SET status = 'published',
        publish_count = acknowledged.attempt,
        "partition" = acknowledged."partition",
        "offset" = acknowledged."offset",
        published_at = statement_timestamp(),
        updated_at = statement_timestamp(),
        next_retry_at = NULL,
        last_error = ''
    FROM unnest(%s::bigint[], %s::int[], %s::int[], %s::bigint[])
         AS acknowledged(id, attempt, "partition", "offset")
    WHERE message.id = acknowledged.id
      AND message.id = ANY(%s::bigint[])
      AND CASE message.status WHEN 'pending' THEN true ELSE false END
      AND message.publish_count = acknowledged.attempt - 1
"""

# Lock messages, in the order of their ids, so that two sessions never wait for each other.
LOCK = """
    SELECT id, source, event_id::text, event_type, event_version, topic, message_key, created_at, status, publish_count,
           delivery_count, retry_count, max_retry, "partition", "offset", headers::text, payload::text
    FROM django_outbox_outboxmessage
    WHERE id = ANY(%s::bigint[])
    ORDER BY id
    FOR UPDATE
"""

# For each of some published messages, what has to be handled before it and is not among them: what is dead
# and holds its key, what is unsent, and what is on its way, be it on its retry or lost. Each is one step into
# an index. The last column tells that the earlier one will be read after this one's record. A log that gives a later
# record a lower offset has lost what it had: the earlier one will not be read at all until it is sent again.
UNHANDLED_BEFORE = """
    SELECT mine.id, earlier.id, earlier.status, earlier.next_retry_at,
           earlier."partition" = mine."partition" AND earlier."offset" > mine."offset"
           AND earlier.published_at >= mine.published_at
    FROM django_outbox_outboxmessage AS mine
    CROSS JOIN LATERAL (
        (
            SELECT id, status, next_retry_at, "partition", "offset", published_at
            FROM django_outbox_outboxmessage AS message
            WHERE message.topic = mine.topic AND message.message_key = mine.message_key
              AND message.source = mine.source
              AND message.status = 'dead' AND message.id < mine.id AND %(dead)s
            ORDER BY message.id LIMIT 1
        ) UNION ALL (
            SELECT id, status, next_retry_at, "partition", "offset", published_at
            FROM django_outbox_outboxmessage AS message
            WHERE message.topic = mine.topic AND message.message_key = mine.message_key
              AND message.source = mine.source
              AND message.status = 'pending' AND message.id < mine.id
            ORDER BY message.id LIMIT 1
        ) UNION ALL (
            SELECT id, status, next_retry_at, "partition", "offset", published_at
            FROM django_outbox_outboxmessage AS message
            WHERE message.topic = mine.topic AND message.message_key = mine.message_key
              AND message.source = mine.source
              AND message.status = 'published' AND message.event_type = ANY(%(known_types)s)
              AND message.id < mine.id AND message.id <> ALL(%(ids)s::bigint[])
            LIMIT 1
        )
    ) AS earlier
    WHERE mine.id = ANY(%(ids)s::bigint[]) AND mine.message_key <> ''
"""

# Mark what was handled, changing it from published to consumed.
MARK_CONSUMED = """
    UPDATE django_outbox_outboxmessage AS message
    SET status = 'consumed', consumed_at = statement_timestamp(), updated_at = statement_timestamp(), last_error = ''
    FROM unnest(%s::bigint[], %s::int[]) AS handled(id, attempt)
    WHERE message.id = handled.id
      AND message.id = ANY(%s::bigint[])
      AND message.status = 'published'
      AND message.publish_count = handled.attempt
"""


class PostgreSQL(Dialect):
    """Statements on the outbox of one PostgreSQL database."""

    # Relay

    def plan_for_much(self) -> None:
        """Plan what follows for a full batch of a long backlog, until the transaction ends."""
        self._execute(PLAN_FOR_MUCH)

    def place_of(self, id: int) -> Place:
        """Where a message stands in the order of claims."""
        ((due_at, id),) = self._fetch(PLACE, [id])
        return due_at, id

    def claim(self, limit: int, without_topics: Sequence[str], begin: Place = START) -> list[Outgoing]:
        """As everywhere, from a place on."""
        return _outgoing(self._fetch(CLAIM_DUE, [settings.source, list(without_topics), *begin, limit]))

    def claim_and_look(
        self, limit: int, without_topics: Sequence[str], begin: Place
    ) -> tuple[list[Outgoing], list[Unsent]]:
        """Claim, and see what is pending before the last message that has a key: at most a thousand."""
        source = settings.source
        parameters = [source, list(without_topics), *begin, limit, source, _MOST_PENDING_BEFORE]
        rows = self._fetch(CLAIM_DUE_AND_PENDING_BEFORE, parameters)
        claimed = [row[:-1] for row in rows if row[2] is not None]
        earlier = [Unsent(row[5], row[6], row[0], "pending", row[-1]) for row in rows if row[2] is None]
        return _outgoing(claimed), earlier

    def is_due(self, without_topics: Sequence[str]) -> bool:
        return bool(self._fetch(IS_DUE, [settings.source, list(without_topics)]))

    def unsent_before(
        self, keyed: Sequence[Outgoing], ids: Sequence[int], *, dead: bool, pending: Sequence[Unsent] | None = None
    ) -> dict[Key, Earlier]:
        """As everywhere; ``pending`` is what ``claim_and_look`` found, where dead messages do not count."""
        batch = _array(ids)
        last = list({(message.topic, message.message_key): message.id for message in keyed}.values())
        found = pending
        if found is None:
            statement, parameters = PENDING_BEFORE, [settings.source, max(last), batch, _MOST_PENDING_BEFORE]
            if dead:
                statement, parameters = PENDING_AND_DEAD_BEFORE, [*parameters, ["dead"], batch, _array(last)]
            found = self._unsent(statement, parameters)
        if sum(message.status == "pending" for message in found) < _MOST_PENDING_BEFORE:
            found = [message for message in found if message.message_key]  # without a key there is no order
        else:  # perhaps not all of them
            found = self._unsent(UNSENT_BEFORE, [["pending", "dead"] if dead else ["pending"], batch, _array(last)])
        # The first message of each key comes last, so that the dict keeps it.
        return {
            (topic, key): Earlier(id, status, due_at)
            for topic, key, id, status, due_at in sorted(found, key=attrgetter("id"), reverse=True)
        }

    def _unsent(self, statement: str, parameters: Sequence[Any]) -> list[Unsent]:
        return [Unsent(*row) for row in self._fetch(statement, parameters)]

    def postpone(self, earlier_ids: Collection[int], first_due: int | None) -> int:
        by_time: dict[str, list[int]] = {}
        for id, until in self._fetch(LATER, [MAX_BACKOFF_SECONDS, _array(earlier_ids), first_due]):
            by_time.setdefault(until, []).append(id)
        return sum(
            self._execute(POSTPONE, [until, _array(ids[start : start + _UPDATE_SIZE])])
            for until, ids in by_time.items()
            for start in range(0, len(ids), _UPDATE_SIZE)
        )

    def mark_published(self, published: Sequence[Published]) -> int:
        columns = [_array(column) for column in zip(*published, strict=True)]
        return self._execute(MARK_PUBLISHED, [*columns, columns[0]])

    # Consumer

    def lock(self, ids: Collection[int]) -> list[LockedMessage]:
        return [LockedMessage(*row) for row in self._fetch(LOCK, [_array(ids)])]

    def unhandled_before(
        self, messages: Sequence[LockedMessage], known_types: Collection[str], *, dead: bool
    ) -> dict[int, Earlier]:
        ids = _array(message.id for message in messages)
        found = self._fetch(UNHANDLED_BEFORE, {"ids": ids, "known_types": list(known_types), "dead": dead})
        # The dead first, as they hold the longest, then those that wait for their retry.
        found.sort(key=lambda row: row[2], reverse=True)
        return {
            id: Earlier(earlier_id, status, due_at, bool(is_coming))
            for id, earlier_id, status, due_at, is_coming in found
        }

    def mark_consumed(self, messages: Sequence[LockedMessage]) -> int:
        ids = _array(message.id for message in messages)
        attempts = _array(message.publish_count for message in messages)
        return self._execute(MARK_CONSUMED, [ids, attempts, ids])

    def _fetch(self, statement: str, parameters: Any) -> list[Any]:
        with connections[self.using].cursor() as cursor:
            cursor.execute(statement, parameters)
            rows: list[Any] = cursor.fetchall()
        return rows

    def _execute(self, statement: str, parameters: Sequence[Any] | None = None) -> int:
        with connections[self.using].cursor() as cursor:
            cursor.execute(statement, parameters)
            return int(cursor.rowcount)


def _outgoing(rows: Iterable[Sequence[Any]]) -> list[Outgoing]:
    return [
        Outgoing(
            id,
            source,
            event_id,
            event_type,
            event_version,
            topic,
            message_key,
            json.loads(headers) if headers != "{}" else {},
            f"{created_at[1:-1]}Z",
            publish_count,
            payload_json,
        )
        for (
            id,
            source,
            event_id,
            event_type,
            event_version,
            topic,
            message_key,
            headers,
            created_at,
            publish_count,
            payload_json,
        ) in rows
    ]


def _array(numbers: Iterable[int | None]) -> str:
    """An array of numbers as PostgreSQL reads it. The driver takes ten times as long to write one."""
    items = ",".join(["NULL" if number is None else str(number) for number in numbers])
    return f"{{{items}}}"
