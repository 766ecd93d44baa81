"""The statements of relay and consumer on PostgreSQL: arrays in place of a parameter per row, and no ORM overhead."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from operator import attrgetter
from typing import Any

from django.db import connections, transaction
from django.db.models import BooleanField, Q, QuerySet
from django.db.models.expressions import RawSQL

from django_outbox.conf import settings
from django_outbox.events.payloads import is_json
from django_outbox.events.writer import Outgoing
from django_outbox.models import OutboxMessage
from django_outbox.state.backoff import MAX_BACKOFF_SECONDS
from django_outbox.state.dialects import statements
from django_outbox.state.dialects.arrays import array, hexadecimal, nullable_text_array, text_array
from django_outbox.state.dialects.base import Dialect, Key, Place
from django_outbox.state.dialects.results import Earlier, LogPosition, Published, Unsent
from django_outbox.state.rows import LockedMessage, NewMessage

START: Place = ("-infinity", 0)  # the place before all messages
INSERT_SIZE = 1000
INSERT_BYTES = 64 * 2**20
"""Size of the payloads of one INSERT. PostgreSQL takes 1 GB per parameter, in which bytes are hexadecimal."""
UPDATE_SIZE = 5000
MOST_PENDING_BEFORE = 1000
"""Of more pending messages before a batch, most have other keys: two batches of other relays are fewer."""


class PostgreSQL(Dialect):
    """Statements on the outbox of one PostgreSQL database."""

    # Publishing

    def insert(self, messages: Sequence[NewMessage]) -> list[OutboxMessage]:
        parts = list(_parts(messages))
        if len(parts) == 1:
            # As Model.save() does. A nested atomic(), for one statement, would take three times as long.
            with transaction.mark_for_rollback_on_error(self.using):
                return self._insert(messages)
        with transaction.atomic(using=self.using, savepoint=False):
            return [stored for part in parts for stored in self._insert(part)]

    def _insert(self, messages: Sequence[NewMessage]) -> list[OutboxMessage]:
        source = settings.source
        has_bytes = not all(map(is_json, messages))
        for_debezium = any(message.by_debezium for message in messages)
        if len(messages) == 1 and not has_bytes:
            return [self._insert_one(messages[0], source)]
        parameters: list[Any] = [
            source,
            text_array(str(message.event_id) for message in messages),
            text_array(message.event_type for message in messages),
            text_array(message.event_version for message in messages),
            text_array(message.topic for message in messages),
            text_array(message.message_key for message in messages),
            text_array(json.dumps(message.headers) if message.headers else "{}" for message in messages),
            text_array(message.payload_json for message in messages),
            array(message.max_retry for message in messages),
            array(message.delay // timedelta(microseconds=1) for message in messages),
        ]
        statement = statements.INSERT
        if has_bytes or for_debezium:
            statement = statements.INSERT_WITH_BYTES
            parameters += [
                nullable_text_array(message.content_type for message in messages),
                nullable_text_array(hexadecimal(message.raw_value) for message in messages),
            ]
        if for_debezium:
            statement = statements.INSERT_FOR_DEBEZIUM
            parameters.append([message.by_debezium for message in messages])
        rows = self._fetch(statement, parameters)
        return [self._stored(message, source, *returned) for message, returned in zip(messages, rows, strict=True)]

    def _insert_one(self, message: NewMessage, source: str) -> OutboxMessage:
        parameters = [
            source,
            str(message.event_id),
            message.event_type,
            message.event_version,
            message.topic,
            message.message_key,
            json.dumps(message.headers) if message.headers else "{}",
            message.payload_json,
            message.max_retry,
        ]
        statement = statements.INSERT_ONE_FOR_DEBEZIUM
        if not message.by_debezium:
            statement = statements.INSERT_ONE
            parameters.append(message.delay // timedelta(microseconds=1))
        (returned,) = self._fetch(statement, parameters)
        return self._stored(message, source, *returned)

    def _stored(
        self, message: NewMessage, source: str, id: int, created_at: datetime, next_retry_at: datetime | None
    ) -> OutboxMessage:
        values = {
            **_NEW,
            "id": id,
            "source": source,
            "event_id": message.event_id,
            "event_type": message.event_type,
            "event_version": message.event_version,
            "topic": message.topic,
            "message_key": message.message_key,
            "headers": message.headers,
            "payload": message.payload,
            "content_type": message.content_type,
            "raw_value": message.raw_value,
            "max_retry": message.max_retry,
            "next_retry_at": next_retry_at,
            "created_at": created_at,
            "updated_at": created_at,
        }
        if message.by_debezium:
            values |= {"status": "published", "publish_count": 1, "published_at": created_at}
        return OutboxMessage.from_db(self.using, values.keys(), values.values())

    # Relay

    def plan_for_full_batch(self) -> None:
        """Plan for a full batch of a long backlog until the transaction ends."""
        self._execute(statements.PLAN_FOR_FULL_BATCH)

    def place_of(self, id: int) -> Place:
        """The place of a message in the order of claims."""
        ((due_at, id),) = self._fetch(statements.PLACE, [id])
        return due_at, id

    def place_after(self, id: int) -> Place:
        due_at, id = self.place_of(id)
        return due_at, id + 1

    def claim(self, limit: int, without_topics: Sequence[str], begin: Place | None = None) -> list[Outgoing]:
        parameters = [settings.source, list(without_topics), *(begin or START), limit]
        return list(map(_outgoing, self._fetch(statements.CLAIM_DUE, parameters)))

    def claim_with_pending(
        self, limit: int, without_topics: Sequence[str], begin: Place
    ) -> tuple[list[Outgoing], list[Unsent]]:
        """Claim, and read pending messages before the last claimed one with a key; at most a thousand."""
        source = settings.source
        parameters = [source, list(without_topics), *begin, limit, source, source, MOST_PENDING_BEFORE]
        rows = self._fetch(statements.CLAIM_DUE_AND_PENDING_BEFORE, parameters)
        earlier = [Unsent(row[5], row[6], row[0], "pending") for row in rows if row[2] is None]
        return [_outgoing(row) for row in rows if row[2] is not None], earlier

    def is_due(self, without_topics: Sequence[str]) -> bool:
        return bool(self._fetch(statements.IS_DUE, [settings.source, list(without_topics)]))

    def unsent_before(
        self, keyed: Sequence[Outgoing], ids: Sequence[int], *, dead: bool, pending: Sequence[Unsent] | None = None
    ) -> dict[Key, int]:
        source, batch = settings.source, array(ids)
        found = pending
        if found is None:
            statement = statements.PENDING_BEFORE
            parameters = [source, source, keyed[-1].id, batch, MOST_PENDING_BEFORE]
            if dead:
                statement = statements.PENDING_AND_DEAD_BEFORE
                parameters = [*parameters, ["dead"], batch, _last_of_keys(keyed)]
            found = self._unsent(statement, parameters)
        if sum(message.status == "pending" for message in found) >= MOST_PENDING_BEFORE:  # there may be more
            blocking = ["pending", "dead"] if dead else ["pending"]
            found = self._unsent(statements.UNSENT_BEFORE, [blocking, batch, _last_of_keys(keyed)])
        firsts: dict[Key, int] = {}
        for message in found:
            if message.message_key:
                key = (message.topic, message.message_key)
                firsts[key] = min(message.id, firsts.get(key, message.id))
        return firsts

    def _unsent(self, statement: str, parameters: Sequence[Any]) -> list[Unsent]:
        return [Unsent(*row) for row in self._fetch(statement, parameters)]

    def postpone(self, earlier_ids: Collection[int], first_due: int | None) -> int:
        by_time: dict[str, list[int]] = {}
        for id, until in self._fetch(statements.LATER, [MAX_BACKOFF_SECONDS, array(earlier_ids), first_due]):
            by_time.setdefault(until, []).append(id)
        return sum(
            self._execute(statements.POSTPONE, [until, array(ids[start : start + UPDATE_SIZE])])
            for until, ids in by_time.items()
            for start in range(0, len(ids), UPDATE_SIZE)
        )

    def mark_published(self, published: Sequence[Published]) -> int:
        columns = [array(column) for column in zip(*published, strict=True)]
        return self._execute(statements.MARK_PUBLISHED, [*columns, columns[0]])

    # Consumer

    def lock(self, ids: Collection[int]) -> list[LockedMessage]:
        return [LockedMessage(*row) for row in self._fetch(statements.LOCK, [array(ids)])]

    def unhandled_before(
        self, messages: Sequence[LockedMessage], known_types: Collection[str], *, dead: bool
    ) -> dict[int, Earlier]:
        parameters = {
            "ids": array(message.id for message in messages),
            "known_types": list(known_types),
            "dead": dead,
        }
        # Usually nothing comes before the last message of each key, and so before none. A look for each would walk past
        # all the others of its key.
        lasts = {_kind(message): message for message in sorted(messages, key=attrgetter("id"))}
        of_lasts = self._unhandled_before(lasts.values(), parameters)
        found: dict[int, Earlier] = {}
        left: list[LockedMessage] = []
        for message in messages if of_lasts else ():
            earlier = of_lasts.get(lasts[_kind(message)].id)
            if earlier is not None and earlier.id < message.id:
                found[message.id] = earlier
            elif earlier is not None:
                left.append(message)
        return found | self._unhandled_before(left, parameters) if left else found

    def _unhandled_before(self, messages: Iterable[LockedMessage], parameters: dict[str, Any]) -> dict[int, Earlier]:
        mine = array(message.id for message in messages)
        rows = self._fetch(statements.UNHANDLED_BEFORE, {**parameters, "mine": mine})
        # The last one of each id wins: dead messages hold longest, then pending ones.
        rows.sort(key=lambda row: row[2], reverse=True)
        return {
            id: Earlier(earlier_id, status, due_at, bool(is_coming), carried_for)
            for id, earlier_id, status, due_at, is_coming, carried_for in rows
        }

    def mark_consumed(self, messages: Sequence[LockedMessage]) -> int:
        ids = array(message.id for message in messages)
        attempts = array(message.publish_count for message in messages)
        return self._execute(statements.MARK_CONSUMED, [ids, attempts, ids])

    # Debezium

    def log_position(self, slot: str) -> LogPosition | None:
        return LogPosition(*self._fetch(statements.LOG_POSITION, [slot])[0])

    def listed(self, ids: Collection[int]) -> Any:
        return RawSQL("SELECT unnest(%s::bigint[])", [array(ids)])

    def inserted_before(self, messages: QuerySet[OutboxMessage], horizon: str) -> QuerySet[OutboxMessage]:
        return messages.filter(RawSQL(statements.IS_OLDER, [horizon], BooleanField()))  # noqa: S611  # of a constant

    # Reports

    def oldest_first(self, messages: QuerySet[Any], status: str) -> QuerySet[Any]:
        """As ``Dialect``, with a range: a constant status is dropped from the order, which may use the primary key."""
        in_index = Q(status__in=[status, "dead"], id__gt=0)
        return messages.filter(in_index, status__range=(status, status)).order_by("status", "id")

    def _fetch(self, statement: str, parameters: Any) -> list[Any]:
        with connections[self.using].cursor() as cursor:
            cursor.execute(statement, parameters)
            rows: list[Any] = cursor.fetchall()
        return rows

    def _execute(self, statement: str, parameters: Sequence[Any] | None = None) -> int:
        with connections[self.using].cursor() as cursor:
            cursor.execute(statement, parameters)
            return int(cursor.rowcount)


def _kind(message: LockedMessage) -> tuple[str, bool]:
    """What messages of a topic have in common that wait for the same earlier messages."""
    return message.message_key, message.partition is None


# As Outgoing._make(), in half the time.
_outgoing: Callable[[tuple[Any, ...]], Outgoing] = partial(tuple.__new__, Outgoing)

# All columns of a new row in the order of the model, as Django asks for them; see ``PostgreSQL._stored``.
_NEW = {field.attname: None for field in OutboxMessage._meta.concrete_fields} | {
    "status": "pending",
    "publish_count": 0,
    "delivery_count": 0,
    "retry_count": 0,
    "last_error": "",
    "fingerprint": "",
}


def _parts(messages: Sequence[NewMessage]) -> Iterator[Sequence[NewMessage]]:
    """The messages of each INSERT."""
    start = size = 0
    for end, message in enumerate(messages):
        added = len(message.payload_json) + len(message.raw_value or b"")
        if end - start == INSERT_SIZE or (size and size + added > INSERT_BYTES):
            yield messages[start:end]
            start, size = end, 0
        size += added
    yield messages[start:]


def _last_of_keys(keyed: Iterable[Outgoing]) -> str:
    return array({(message.topic, message.message_key): message.id for message in keyed}.values())
