"""The state machine of the outbox: every write of a message's status, with ``transitions``, ``retry`` and ``controls``.

::

                      mark_published              mark_consumed
    publish ─> pending ────────────> published ────────────> consumed
                 │  ^                  │    │
       mark_dead │  └──────────────────┘    │ mark_dead,
     mark_failed │   mark_failed, requeue   │ mark_failed
                 v                          v
               dead <───────────────────────┘
                 └──> pending   retry (an operator); also from consumed

An operator may also make pending messages due, or dead (``controls``).

Each write names in its WHERE clause the status that it leaves, so a late writer changes nothing. Functions that read
before they write lock the row until their transaction ends. ``using`` is the alias of the database; times come from
the database's clock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import NamedTuple

from django.db import transaction
from django.db.models import F, Q, QuerySet

from django_outbox.brokers.base import TopicPartition
from django_outbox.exceptions import MessageNotFound
from django_outbox.models import OutboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.models.message import status_is
from django_outbox.state.dialects import dialect_of
from django_outbox.state.dialects.results import Published
from django_outbox.state.rows import LockedMessage, NewMessage

Status = OutboxMessage.Status

UPDATE_SIZE = 500
"""Rows of one statement that names their ids."""


def to_send(message_id: int, attempt: int, *, using: str) -> QuerySet[OutboxMessage]:
    """A pending message whose next publication is this attempt; for ``transitions``."""
    messages = OutboxMessage.objects.using(using)
    return messages.filter(status_is(Status.PENDING), id=message_id, publish_count=attempt - 1)


def in_delivery(message_id: int, attempt: int, *, using: str) -> QuerySet[OutboxMessage]:
    """A message that is still published as this attempt; for ``transitions``."""
    messages = OutboxMessage.objects.using(using)
    return messages.filter(status_is(Status.PUBLISHED), id=message_id, publish_count=attempt)


# -> pending, or published if Debezium sends it


def insert(messages: Sequence[NewMessage], *, using: str) -> list[OutboxMessage]:
    """Insert messages in this order, all or none, and return them as they are stored."""
    return dialect_of(using).insert(messages) if messages else []


# pending -> published


def mark_published(published: Sequence[Published], *, using: str) -> int:
    """Mark messages that the broker acknowledged; returns how many changed.

    A message that has failed or ended since has another count of publications or another status and stays as it is.
    """
    return dialect_of(using).mark_published(published) if published else 0


# pending -> pending


def postpone(earlier_ids: Collection[int], *, first_due: int | None = None, using: str) -> int:
    """Let all later messages of these messages' keys wait as long as they do, uncounted; returns how many.

    All of them, not only a batch: otherwise a hundred thousand messages behind a failing one would be claimed batch
    after batch. Messages behind a dead one wait for the longest backoff.

    Args:
        earlier_ids: ids of messages; those that are neither pending nor dead hold nothing.
        first_due: id of the message of the batch that is due first.
    """
    return dialect_of(using).postpone(earlier_ids, first_due)


# published -> consumed


def lock(ids: Collection[int], *, using: str) -> dict[int, LockedMessage]:
    """Lock messages until the transaction ends; by id, without those that do not exist."""
    return {message.id: message for message in dialect_of(using).lock(ids)}


def mark_consumed(messages: Sequence[LockedMessage], *, using: str) -> None:
    """Mark locked, published messages as handled.

    Raises:
        MessageNotFound: a handler removed or changed a row.
    """
    changed = dialect_of(using).mark_consumed(messages) if messages else 0
    if changed != len(messages):
        raise MessageNotFound(*[message.id for message in messages])


# published -> published


class Delivery(NamedTuple):
    """A record of a message; ``attempt`` is the number of its publication, if it is known."""

    id: int
    attempt: int | None
    topic: str
    partition: int
    offset: int


def count_deliveries(deliveries: Sequence[Delivery], *, using: str) -> int:
    """Count deliveries before their handlers run, because a handler may kill the process; returns how many.

    Not if the message is not published, belongs to another service, or was last published as another record.
    """
    messages = _in_deliveries(deliveries, using=using)
    return messages.update(delivery_count=F("delivery_count") + 1, updated_at=DatabaseNow())


def uncount_deliveries(deliveries: Sequence[Delivery], *, using: str) -> None:
    """Take counted deliveries back, as their handlers did not run.

    Not if another consumer handles the message now, or the message was sent again: then the count is another's.
    """
    with transaction.atomic(using=using):
        messages = _in_deliveries(deliveries, using=using).filter(delivery_count__gt=0)
        locked = list(messages.select_for_update(skip_locked=True).values_list("id", flat=True))
        messages.filter(id__in=locked).update(delivery_count=F("delivery_count") - 1)


def _in_deliveries(deliveries: Sequence[Delivery], *, using: str) -> QuerySet[OutboxMessage]:
    """Published messages of this service whose last publication is one of these records, as far as it is known."""
    current = Q()
    for id, attempt, topic, partition, offset in deliveries:
        is_record = Q(offset__isnull=True) | Q(topic=topic, partition=partition, offset=offset)
        is_attempt = Q() if attempt is None else Q(publish_count=attempt)
        current |= Q(is_record, is_attempt, id=id)
    messages = OutboxMessage.objects.using(using).own()
    return messages.filter(current, status_is(Status.PUBLISHED), id__in=[each.id for each in deliveries])


def forget_deliveries(ids: Collection[int], *, using: str) -> None:
    """The handlers of these locked messages did not run."""
    if ids:
        OutboxMessage.objects.using(using).filter(status_is(Status.PUBLISHED), id__in=ids).update(delivery_count=0)


def published(topics: Collection[str], event_types: Collection[str], *, using: str) -> QuerySet[OutboxMessage]:
    """Messages of this service that were sent and not handled yet."""
    own = OutboxMessage.objects.using(using).own()
    return own.published().filter(topic__in=topics, event_type__in=event_types)


def still_published(ids: Collection[int], *, using: str) -> set[int]:
    """Those of these messages that are published now. Nothing is locked."""
    messages = OutboxMessage.objects.using(using)
    wanted = list(ids)
    found: set[int] = set()
    for start in range(0, len(wanted), UPDATE_SIZE):
        # The status is no condition: with old statistics, PostgreSQL would read all that are published.
        rows = messages.filter(id__in=wanted[start : start + UPDATE_SIZE]).values_list("id", "status")
        found.update(id for id, status in rows if status == Status.PUBLISHED)
    return found


def with_deliveries(ids: Sequence[int], *, using: str) -> set[int]:
    """Return the ids of messages whose delivery was counted, and that nobody handles now: these are locked."""
    messages = OutboxMessage.objects.using(using).filter(id__in=ids, delivery_count__gt=0)
    with transaction.atomic(using=using):
        return set(messages.select_for_update(skip_locked=True).values_list("id", flat=True))


# published -> pending


def requeue_lost(
    place: TopicPartition, first: int, end: int, *, age: timedelta, event_types: Collection[str] | None, using: str
) -> int:
    """Requeue messages that are published to a partition but will not be read from it, uncounted.

    Rows locked by another session are skipped. Returns how many changed.

    Args:
        first: the first offset that is yet to be read.
        end: the offset after the last.
        age: minimum time since the publication; the offsets may be older than later publications.
        event_types: types with a handler; None for all.
    """
    published = published_before(age, place.topic, event_types, using).filter(partition=place.partition)
    beyond = Q(offset__gte=end)
    if first >= end:  # everything was read, so messages with an unknown offset are lost as well
        beyond |= Q(offset__isnull=True)
    # Two queries, so that each reads one range of an index.
    return requeue_all(published.filter(offset__lt=first), using) + requeue_all(published.filter(beyond), using)


def requeue_passed(
    place: TopicPartition,
    first: int,
    end: int,
    in_hand: Collection[int],
    *,
    age: timedelta,
    event_types: Collection[str] | None,
    using: str,
) -> int:
    """Requeue messages that are published from ``first`` up to ``end`` and were read, but are not in hand, uncounted.

    Args:
        in_hand: ids of messages, which other sessions may have locked.
        age, event_types: see ``requeue_lost``.
    """
    published = published_before(age, place.topic, event_types, using).filter(partition=place.partition)
    read = published.filter(offset__gte=first, offset__lt=end).values_list("id", flat=True)
    lost = sorted(set(read) - set(in_hand))
    return sum(
        requeue_all(published.filter(id__in=lost[start : start + UPDATE_SIZE]), using)
        for start in range(0, len(lost), UPDATE_SIZE)
    )


def requeue_without_partition(
    topic: str, partitions: int, *, age: timedelta, event_types: Collection[str] | None, using: str
) -> int:
    """Requeue messages that are published to partitions that the topic no longer has, uncounted."""
    return requeue_all(published_before(age, topic, event_types, using).filter(partition__gte=partitions), using)


def published_before(
    age: timedelta, topic: str, event_types: Collection[str] | None, using: str
) -> QuerySet[OutboxMessage]:
    """Messages of a topic that were published at least ``age`` ago. Arguments as for ``requeue_lost``."""
    messages = OutboxMessage.objects.using(using).own().published()
    # The count is true of all; it makes the index usable.
    messages = messages.filter(publish_count__gt=0, topic=topic, published_at__lt=DatabaseNow() - age)
    return messages if event_types is None else messages.filter(event_type__in=event_types)


def requeue_all(messages: QuerySet[OutboxMessage], using: str, *, most: int | None = None) -> int:
    """Requeue published messages, uncounted, except those locked by another session; returns how many changed.

    Args:
        most: how many at most; None for all.
    """
    rows = OutboxMessage.objects.using(using)
    with transaction.atomic(using=using):
        ids = list(messages.select_for_update(skip_locked=True).values_list("id", flat=True)[:most])
        return sum(
            rows.filter(id__in=ids[start : start + UPDATE_SIZE]).update(
                status=Status.PENDING, next_retry_at=DatabaseNow(), updated_at=DatabaseNow()
            )
            for start in range(0, len(ids), UPDATE_SIZE)
        )
