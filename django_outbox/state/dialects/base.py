"""The statements of relay and consumer, written with Django's ORM for any database."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from django.db import connections, transaction
from django.db.models import Exists, Min, OuterRef, Q, QuerySet, TextField, Value
from django.db.models.expressions import RawSQL
from django.db.models.functions import Cast

from django_outbox.events.writer import Outgoing
from django_outbox.models import OutboxMessage, OutboxQuerySet
from django_outbox.models.fields import DatabaseNow, due_at, json_value
from django_outbox.state.backoff import MAX_BACKOFF_SECONDS
from django_outbox.state.dialects.results import Earlier, LogPosition, Published, Unsent
from django_outbox.state.rows import LOCKED_COLUMNS, LockedMessage, NewMessage

Status = OutboxMessage.Status
Key = tuple[str, str]
Place = tuple[str, int]
"""A due time, as the database writes it, and an id: a place in the order of claims."""
BULK_SIZE = 1000
OUTGOING_COLUMNS = [
    Cast(name.removesuffix("_json"), TextField()) if name.endswith("_json") else name for name in Outgoing._fields
]


class Dialect:
    """Statements on the outbox of one database, called by ``state.outbox`` and ``state.ordering``.

    Every write names in its WHERE clause the status that it leaves. Claims leave out messages of other services.
    """

    def __init__(self, using: str) -> None:
        self.using = using

    # Publishing

    def insert(self, messages: Sequence[NewMessage]) -> list[OutboxMessage]:
        """Insert messages in this order, all or none, and return them as they are stored.

        After an error, a transaction of the caller can only be rolled back, as after an error of ``Model.save()``.
        """
        rows = [
            OutboxMessage(
                event_id=message.event_id,
                event_type=message.event_type,
                event_version=message.event_version,
                topic=message.topic,
                message_key=message.message_key,
                headers=message.headers,
                payload=json_value(message.payload),
                content_type=message.content_type,
                raw_value=message.raw_value,
                max_retry=message.max_retry,
                **(_PUBLISHED if message.by_debezium else {"next_retry_at": due_at(message.delay)}),
            )
            for message in messages
        ]
        with transaction.atomic(using=self.using, savepoint=False):
            self._messages().bulk_create(rows, batch_size=BULK_SIZE)
            if not connections[self.using].features.can_return_rows_from_bulk_insert:
                self._set_ids(rows)
        return [_as_stored(row) for row in rows]

    def _set_ids(self, rows: Sequence[OutboxMessage]) -> None:
        stored = self._messages().filter(event_id__in=[row.event_id for row in rows])
        ids = dict(stored.values_list("event_id", "id"))
        for row in rows:
            row.id = ids[row.event_id]
            # As Django does where an insert returns the id: later reads and writes go to this database.
            row._state.adding, row._state.db = False, self.using

    # Relay

    def place_after(self, id: int) -> Place:
        """The place after a pending message in the order of claims."""
        ((due_at,),) = self._messages().filter(id=id).values_list(Cast("next_retry_at", TextField()))
        return due_at, id + 1

    def claim(self, limit: int, without_topics: Sequence[str], begin: Place | None = None) -> list[Outgoing]:
        """Lock and read due messages by due time, from a place on, skipping those locked by other relays."""
        due = self._due(without_topics).select_for_update(skip_locked=True)
        if begin is not None:
            due_at, id = Value(begin[0], TextField()), begin[1]  # as it is stored: SQLite compares times as text
            due = due.filter(next_retry_at__gte=due_at).exclude(next_retry_at=due_at, id__lt=id)
        return [Outgoing(*row) for row in due.values_list(*OUTGOING_COLUMNS)[:limit]]

    def is_due(self, without_topics: Sequence[str]) -> bool:
        """True if a message is due, even one locked by another relay."""
        return self._due(without_topics).exists()

    def unsent_before(
        self, keyed: Sequence[Outgoing], ids: Sequence[int], *, dead: bool, pending: Sequence[Unsent] | None = None
    ) -> dict[Key, int]:
        """By topic and key, the id of the first unsent message that is not in a batch.

        Args:
            keyed: the messages of the batch that have a key, by ascending id; ``ids`` are those of all.
            dead: whether a dead message holds its key.
            pending: earlier pending messages that the claim found, on PostgreSQL.
        """
        return _first_of_keys(self._messages().own().filter(status__in=_blocking(dead)), keyed)

    def mark_published(self, published: Sequence[Published]) -> int:
        """Pending to published; returns how many changed."""
        by_attempt: dict[int, list[Published]] = {}
        for message in published:
            by_attempt.setdefault(message.attempt, []).append(message)
        return sum(
            self._messages()
            .filter(id__in=[message.id for message in messages], status=Status.PENDING, publish_count=attempt - 1)
            .update(
                status=Status.PUBLISHED,
                publish_count=attempt,
                partition=_by_id({message.id: message.partition for message in messages}),
                offset=_by_id({message.id: message.offset for message in messages}),
                published_at=DatabaseNow(),
                updated_at=DatabaseNow(),
                next_retry_at=None,
                last_error="",
            )
            for attempt, messages in by_attempt.items()
        )

    def postpone(self, earlier_ids: Collection[int], first_due: int | None) -> int:
        """Move the due time of later messages of the same keys; returns how many wait longer than before."""
        messages = self._messages()
        earlier = messages.filter(id__in=earlier_ids, status__in=_blocking(dead=True))
        if first_due is not None:  # see LATER in statements.py
            earlier = earlier.exclude(next_retry_at__lte=messages.filter(id=first_due).values("next_retry_at"))
        # Behind a dead message only due messages: the others wait already.
        return sum(
            messages.filter(
                status=Status.PENDING,
                topic=each.topic,
                message_key=each.message_key,
                source=each.source,
                id__gt=each.id,
                next_retry_at__lt=each.next_retry_at or DatabaseNow(),
            ).update(
                next_retry_at=each.next_retry_at or DatabaseNow() + timedelta(seconds=MAX_BACKOFF_SECONDS),
                updated_at=DatabaseNow(),
            )
            for each in earlier
        )

    # Consumer

    def lock(self, ids: Collection[int]) -> list[LockedMessage]:
        """Lock and read messages by id, with any status."""
        messages = self._messages().select_for_update().filter(id__in=ids).order_by("id")
        rows = messages.values_list(*LOCKED_COLUMNS, Cast("headers", TextField()), Cast("payload", TextField()))
        locked = [LockedMessage(*row) for row in rows]
        for message in locked:
            message.event_id = str(message.event_id)
        return locked

    def mark_consumed(self, messages: Sequence[LockedMessage]) -> int:
        """Published to consumed; returns how many changed."""
        by_attempt: dict[int, list[int]] = {}
        for message in messages:
            by_attempt.setdefault(message.publish_count, []).append(message.id)
        return sum(
            self._messages()
            .filter(id__in=ids, status=Status.PUBLISHED, publish_count=attempt)
            .update(status=Status.CONSUMED, consumed_at=DatabaseNow(), updated_at=DatabaseNow(), last_error="")
            for attempt, ids in by_attempt.items()
        )

    def unhandled_before(
        self, messages: Sequence[LockedMessage], known_types: Collection[str], *, dead: bool
    ) -> dict[int, Earlier]:
        """By id, the message that must be handled before a published message and is not one of these.

        Args:
            messages: locked, of one topic, with keys.
            known_types: event types that have a handler.
            dead: whether a dead message holds its key.
        """
        on_its_way = Q(status=Status.PUBLISHED, event_type__in=known_types)
        unhandled = self._messages().own().filter(Q(status__in=_blocking(dead)) | on_its_way)
        firsts = _first_of_keys(unhandled, messages)
        others = unhandled.exclude(id__in=[message.id for message in messages]).order_by("status", "id")
        blocked: dict[int, Earlier] = {}
        for message in messages:
            if firsts.get((message.topic, message.message_key), message.id) >= message.id:
                continue
            # A later record with a lower offset: the topic has lost its records.
            is_coming = Exists(
                OutboxMessage.objects.filter(
                    id=message.id,
                    partition=OuterRef("partition"),
                    offset__lt=OuterRef("offset"),
                    published_at__lte=OuterRef("published_at"),
                )
            )
            before = others.filter(topic=message.topic, message_key=message.message_key, id__lt=message.id)
            if message.partition is None:  # Debezium delivers messages in the order of their commits
                before = before.exclude(status=Status.PUBLISHED, partition=None)
            columns = ("id", "status", "next_retry_at", is_coming, "partition", "published_at", DatabaseNow())
            earlier = before.values_list(*columns).first()
            if earlier is not None:
                id, status, due_at, coming, partition, published_at, now = earlier
                is_carried = status == Status.PUBLISHED and partition is None and published_at is not None
                blocked[message.id] = Earlier(id, status, due_at, coming, now - published_at if is_carried else None)
        return blocked

    # Debezium

    def log_position(self, slot: str) -> LogPosition | None:
        """Where the database's log is; None if Debezium does not read it, as on databases other than PostgreSQL."""
        return None

    def listed(self, ids: Collection[int]) -> Any:
        """Ids for ``__in``, in one parameter where client libraries take longer to write many than the server to find them."""
        return ids

    def inserted_before(self, messages: QuerySet[OutboxMessage], horizon: str) -> QuerySet[OutboxMessage]:
        """Those messages whose last change was by a transaction with an older id, or that are older than an hour."""
        raise NotImplementedError

    # Reports

    def oldest_first(self, messages: QuerySet[Any], status: str) -> QuerySet[Any]:
        """Unfinished messages with one status, ordered by id. Ordered by the status, MariaDB would sort."""
        return messages.filter(status=status, id__gt=0).order_by("id")

    def _due(self, without_topics: Sequence[str]) -> OutboxQuerySet:
        return self._messages().due().except_topics(without_topics)

    def _messages(self) -> OutboxQuerySet:
        return OutboxMessage.objects.using(self.using)


# Of a message that Debezium sends.
_PUBLISHED = {"status": Status.PUBLISHED, "publish_count": 1, "published_at": DatabaseNow(), "next_retry_at": None}


def _blocking(dead: bool) -> list[str]:
    return [Status.PENDING, Status.DEAD] if dead else [Status.PENDING]


def _first_of_keys(
    messages: QuerySet[OutboxMessage], batch: Sequence[Outgoing] | Sequence[LockedMessage]
) -> dict[Key, int]:
    """By topic and key of a batch, the id of the first of these messages that is before its end and not in it."""
    ids = [message.id for message in batch]
    firsts = (
        messages.filter(
            topic__in={message.topic for message in batch},
            message_key__in={message.message_key for message in batch},
            id__lt=max(ids),
        )
        .exclude(id__in=ids)
        .values_list("topic", "message_key")
        .annotate(first=Min("id"))
    )
    return {(topic, key): first for topic, key, first in firsts}


def _as_stored(row: OutboxMessage) -> OutboxMessage:
    """Drop expressions that the database evaluated; Django reads such columns on first access."""
    if isinstance(row.payload, Value):
        row.payload = None
    for name, value in list(row.__dict__.items()):
        if hasattr(value, "resolve_expression"):
            del row.__dict__[name]
    return row


def _by_id(numbers: Mapping[int, int | None]) -> RawSQL:
    """A number for each id. As text: Django takes a hundred times as long for ``Case``."""
    cases = " ".join(
        f"WHEN {int(id)} THEN {'NULL' if number is None else int(number)}" for id, number in numbers.items()
    )
    return RawSQL(f"CASE id {cases} END", [])  # noqa: S611  # only numbers
