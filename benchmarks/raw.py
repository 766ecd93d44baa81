"""The same work without the package: psycopg, a Kafka client and nothing between them."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC
from typing import Any

import psycopg
from django.db import connection as django_connection
from django.db import transaction

from benchmarks.clients import GroupReader, Message, Read, Sender
from benchmarks.handlers import INSERT
from django_outbox import Event

TABLE = "django_outbox_outboxmessage"

CLAIM = f"""
    SELECT id, event_id::text, event_type, event_version, topic, message_key, headers, created_at, publish_count,
           payload::text
    FROM {TABLE}
    WHERE status = 'pending' AND source = 'benchmarks' AND next_retry_at <= statement_timestamp()
    ORDER BY next_retry_at, id
    LIMIT %s
    FOR UPDATE SKIP LOCKED
"""
CLAIM_BARE = f"""
    SELECT id, topic, message_key, payload::text
    FROM {TABLE}
    WHERE status = 'pending' AND source = 'benchmarks' AND next_retry_at <= statement_timestamp()
    ORDER BY next_retry_at, id
    LIMIT %s
    FOR UPDATE SKIP LOCKED
"""
MARK_PUBLISHED_BARE = f"""
    UPDATE {TABLE}
    SET status = 'published', publish_count = publish_count + 1, published_at = statement_timestamp(),
        updated_at = statement_timestamp(), next_retry_at = NULL
    WHERE id = ANY(%s) AND status = 'pending'
"""
MARK_PUBLISHED = f"""
    UPDATE {TABLE} AS message
    SET status = 'published', publish_count = publish_count + 1, partition = place.partition,
        "offset" = place.position, published_at = statement_timestamp(), updated_at = statement_timestamp(),
        next_retry_at = NULL, last_error = ''
    FROM unnest(%s::bigint[], %s::int[], %s::bigint[]) AS place (id, partition, position)
    WHERE message.id = place.id AND message.status = 'pending'
"""
INSERT_ONE = f"""
    INSERT INTO {TABLE} (
        source, event_id, event_type, event_version, topic, message_key, headers, payload, max_retry, next_retry_at,
        status, publish_count, delivery_count, retry_count, last_error
    )
    VALUES ('benchmarks', %s, %s, 'v1', %s, %s, '{{}}', %s, 20, statement_timestamp(), 'pending', 0, 0, 0, '')
"""
INSERT_MANY = f"""
    INSERT INTO {TABLE} (
        source, event_id, event_type, event_version, topic, message_key, headers, payload, max_retry, next_retry_at,
        status, publish_count, delivery_count, retry_count, last_error
    )
    SELECT 'benchmarks', event_id, %s, 'v1', %s, message_key, '{{}}', payload::jsonb, 20, statement_timestamp(),
           'pending', 0, 0, 0, ''
    FROM unnest(%s::uuid[], %s::text[], %s::text[]) AS new (event_id, message_key, payload)
"""
LOCK = f"""
    SELECT id, event_id::text, event_type, event_version, topic, message_key, headers, created_at, publish_count,
           partition, "offset", payload
    FROM {TABLE}
    WHERE id = ANY(%s) AND status = 'published'
    ORDER BY id
    FOR UPDATE
"""
MARK_CONSUMED = f"""
    UPDATE {TABLE}
    SET status = 'consumed', consumed_at = statement_timestamp(), updated_at = statement_timestamp(), last_error = ''
    WHERE id = ANY(%s) AND status = 'published'
"""


def connect(url: str) -> psycopg.Connection[Any]:
    """Connect as Django does to a ``DATABASE_URL``."""
    return psycopg.connect(url.replace("postgres://", "postgresql://", 1), autocommit=True)


def relay_pass(connection: psycopg.Connection[Any], sender: Sender, batch_size: int) -> int:
    """The raw loop: claim, send as the relay does, mark with partition and offset, commit; returns the number of rows."""
    with connection.transaction():
        rows = connection.execute(CLAIM, (batch_size,)).fetchall()
        if rows:
            places = sender.send([_record(row) for row in rows])
            ids = [row[0] for row in rows]
            connection.execute(MARK_PUBLISHED, (ids, [place[0] for place in places], [place[1] for place in places]))
    return len(rows)


def bare_relay_pass(connection: psycopg.Connection[Any], sender: Sender, batch_size: int) -> int:
    """The bare loop: the least that sends and marks a batch. One header, and nobody knows where a record went."""
    with connection.transaction():
        rows = connection.execute(CLAIM_BARE, (batch_size,)).fetchall()
        if rows:
            sender.send_all(
                Message(topic, key.encode() or None, payload.encode(), [("ce_outboxid", b"%d" % id)])
                for id, topic, key, payload in rows
            )
            connection.execute(MARK_PUBLISHED_BARE, ([row[0] for row in rows],))
    return len(rows)


def _record(row: tuple[Any, ...]) -> Message:
    """The record that the relay would send, byte for byte as many."""
    id_, event_id, event_type, version, topic, key, headers, created_at, publish_count, payload = row
    time_ = created_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return Message(
        topic,
        key.encode() or None,
        payload.encode(),
        [
            ("ce_specversion", b"1.0"),
            ("ce_id", event_id.encode()),
            ("ce_type", event_type.encode()),
            ("ce_time", time_.encode()),
            ("ce_eventversion", version.encode()),
            ("ce_subject", key.encode()),
            ("ce_source", b"benchmarks"),
            ("ce_outboxid", b"%d" % id_),
            ("ce_outboxattempt", b"%d" % (publish_count + 1)),
            ("content-type", b"application/json"),
            *((name, text.encode()) for name, text in headers.items()),
        ],
    )


def consume_pass(connection: psycopg.Connection[Any], reader: GroupReader, batch_size: int, timeout: float) -> int:
    """Read a batch, lock its rows, insert a row for each, mark them, commit; then commit the offsets."""
    records = reader.poll(batch_size, timeout)
    if not records:
        return 0
    ids = _ids(records)
    with connection.transaction(), connection.cursor() as cursor:
        rows = cursor.execute(LOCK, (ids,)).fetchall()
        for row in rows:
            cursor.execute(INSERT, (row[1], time.monotonic()))
        cursor.execute(MARK_CONSUMED, ([row[0] for row in rows],))
    reader.commit({record.partition: record.offset + 1 for record in records})
    return len(rows)


def call_pass(handler: Callable[[Event], None], reader: GroupReader, batch_size: int, timeout: float) -> int:
    """As ``consume_pass``, on Django's connection and with a handler for each row: what every consumer has to do."""
    records = reader.poll(batch_size, timeout)
    if not records:
        return 0
    count = _call_all(handler, _ids(records))
    reader.commit({record.partition: record.offset + 1 for record in records})
    return count


class ThreadedLoop:
    """The same in so many threads, each with its connection: the most that threads can do. It keeps no order of keys.

    A thread handles a batch in one transaction; offsets are committed up to the first batch that is not done.
    """

    def __init__(self, handler: Callable[[Event], None], reader: GroupReader, threads: int, batch_size: int) -> None:
        self._handler = handler
        self._reader = reader
        self._batch_size = batch_size
        self._most = 2 * threads
        self._pool = ThreadPoolExecutor(threads)
        self._batches: deque[tuple[list[Read], Future[int]]] = deque()

    def step(self, timeout: float) -> int:
        """Read a batch and give it to the threads, if they need one; returns how many messages are done in order."""
        records = []
        if len(self._batches) < self._most:
            records = self._reader.poll(self._batch_size, 0.0 if self._batches else timeout)
        if records:
            self._batches.append((records, self._pool.submit(_call_all, self._handler, _ids(records))))
        elif self._batches:
            wait([self._batches[0][1]], timeout)
        count, offsets = 0, dict[int, int]()
        while self._batches and self._batches[0][1].done():
            records, done = self._batches.popleft()
            count += done.result()
            offsets.update({record.partition: record.offset + 1 for record in records})
        if offsets:
            self._reader.commit(offsets)
        return count

    def close(self) -> None:
        self._pool.shutdown()


def _call_all(handler: Callable[[Event], None], ids: list[int]) -> int:
    with transaction.atomic(), django_connection.cursor() as cursor:
        cursor.execute(LOCK, (ids,))
        rows = cursor.fetchall()
        for row in rows:
            handler(Event(id=row[1], type=row[2], key=row[5], payload=json.loads(row[-1])))
        cursor.execute(MARK_CONSUMED, ([row[0] for row in rows],))
    return len(rows)


def _ids(records: list[Read]) -> list[int]:
    return [int(dict(record.headers)["ce_outboxid"]) for record in records]
