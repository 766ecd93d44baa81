"""The state machine: every write of a message's state, one function a transition.

::

                      mark_published              mark_consumed
    publish ─> pending ────────────> published ────────────> consumed
                 │  ^                  │    │
    mark_refused │  └──────────────────┘    │ mark_failed, mark_rejected
    mark_unsent  │   mark_failed, put_back  │
                 v                          v
               dead <───────────────────────┘
                 └──> pending   retry, retry_with (an operator)

Each write names in its WHERE clause the state that it leaves, so a writer that comes late changes
nothing. Functions that read before they write lock the row for as long as their transaction lasts.
All take ``using``, the alias of the database, and times come from the database's own clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Case, DateTimeField, F, Q, QuerySet, When

from django_outbox.brokers.base import TopicPartition
from django_outbox.conf import settings
from django_outbox.exceptions import MessageNotFound
from django_outbox.models import OutboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.state import dead_letters, failures
from django_outbox.state.backoff import backoff
from django_outbox.state.dialects import dialect_of
from django_outbox.state.dialects.base import Published
from django_outbox.state.rows import LockedMessage

Status = OutboxMessage.Status

UPDATE_SIZE = 500


# pending -> published


def mark_published(published: Sequence[Published], *, using: str) -> int:
    """Mark what the broker acknowledged; returns how many messages that changed.

    A message that meanwhile failed and was put back, or came to an end, has another count of
    publications or another state and stays as it is.
    """
    if not published:
        return 0
    return dialect_of(using).mark_published(published)


# pending -> pending


def mark_unsent(message_id: int, attempt: int, error: BaseException | str, *, using: str) -> str:
    """Count a failure to send this very message; returns its state: pending, or dead at the last.

    Raises:
        MessageNotFound: if there is no such message.
    """
    return _count_failure(message_id, Status.PENDING, attempt - 1, error, None, using)


def postpone(earlier_ids: Collection[int], *, first_due: int | None = None, using: str) -> int:
    """Let all that is behind these messages, in their keys, wait as long as they do, uncounted.

    All of it and not only a batch, so that a hundred thousand messages behind one that fails do not
    come up, batch after batch, before anything else. What waits behind a dead message looks again
    after the longest backoff. Returns how many messages wait longer than before.

    Args:
        earlier_ids: ids of messages that are pending or dead; others hold nothing.
        first_due: id of the message that is due first of those that have to wait.
        using: alias of the database.
    """
    return dialect_of(using).postpone(earlier_ids, first_due)


# pending -> dead


def mark_refused(message_id: int, error: BaseException | str, *, using: str) -> bool:
    """Give up a message that can never be sent; False if it was no longer pending."""
    messages = _messages(using).filter(id=message_id, status=Status.PENDING)
    return _give_up(messages, failures.Stage.SEND, error, using)


# published -> consumed


def lock(ids: Collection[int], *, using: str) -> dict[int, LockedMessage]:
    """Read messages by id and keep others from changing them until the transaction ends.

    What does not exist is left out.
    """
    return {message.id: message for message in dialect_of(using).lock(ids)}


def mark_consumed(messages: Sequence[LockedMessage], *, using: str) -> None:
    """Mark locked, published messages as handled.

    Raises:
        MessageNotFound: if a handler removed or changed such a row itself.
    """
    changed = dialect_of(using).mark_consumed(messages) if messages else 0
    if changed != len(messages):
        raise MessageNotFound(*[message.id for message in messages])


# published -> published


def count_delivery(message_id: int, attempt: int | None, place: TopicPartition, offset: int, *, using: str) -> bool:
    """Count a delivery that may take the process down, before it can.

    False if the message is another service's or not published, or if this publication of it, or this record, where the
    row knows its own, is not the one in hand: a copy is never handled.
    """
    messages = _messages(using).filter(
        Q(offset__isnull=True) | Q(topic=place.topic, partition=place.partition, offset=offset),
        id=message_id,
        source=settings.source,
        status=Status.PUBLISHED,
    )
    if attempt is not None:
        messages = messages.filter(publish_count=attempt)
    return bool(messages.update(delivery_count=F("delivery_count") + 1, updated_at=DatabaseNow()))


# published -> pending


def mark_failed(
    message_id: int,
    attempt: int,
    error: BaseException | str,
    *,
    using: str,
    delay: timedelta | None = None,
) -> str:
    """Count a failure of the handler; returns the state: pending, or dead at the last.

    Nothing changes, and the state that it has is returned, if the message came to an end or this
    publication is no longer the one in hand.

    Raises:
        MessageNotFound: if there is no such message.
    """
    return _count_failure(message_id, Status.PUBLISHED, attempt, error, delay, using)


def put_back(message: LockedMessage | OutboxMessage, until: datetime | timedelta, *, using: str) -> bool:
    """Send a published message again, uncounted, as it was not its turn or not its fault.

    ``until`` is when, or how long from now. False if the message was no longer in hand.
    """
    return bool(
        _messages(using)
        .filter(id=message.id, status=Status.PUBLISHED, publish_count=message.publish_count)
        .update(
            status=Status.PENDING,
            delivery_count=0,
            next_retry_at=DatabaseNow() + until if isinstance(until, timedelta) else until,
            updated_at=DatabaseNow(),
        )
    )


def put_back_lost(
    place: TopicPartition,
    first: int,
    end: int,
    *,
    age: timedelta,
    event_types: Collection[str] | None,
    using: str,
) -> int:
    """Send again what is published to a partition but will not be read from it, uncounted.

    Args:
        place: the partition.
        first: the first offset that is yet to be read.
        end: the offset behind the last.
        age: only what was published longer ago than this, as the offsets may be older than what was published since.
        event_types: only these, as what nobody here handles stays published; None for all.
        using: alias of the database.

    Returns how many messages that changed. What another session has locked is left alone.
    """
    published = _published_before(age, place.topic, event_types, using).filter(partition=place.partition)
    beyond = Q(offset__gte=end)
    if first >= end:
        # All is read, so that of which the broker did not tell the offset is not on its way either.
        beyond |= Q(offset__isnull=True)
    # Two looks, each at one range of an index.
    return _put_back_all(published.filter(offset__lt=first), using) + _put_back_all(published.filter(beyond), using)


def put_back_without_partition(
    topic: str, partitions: int, *, age: timedelta, event_types: Collection[str] | None, using: str
) -> int:
    """Send again what was published to partitions that a topic, with so many, no longer has, uncounted."""
    return _put_back_all(_published_before(age, topic, event_types, using).filter(partition__gte=partitions), using)


def _published_before(
    age: timedelta, topic: str, event_types: Collection[str] | None, using: str
) -> QuerySet[OutboxMessage]:
    messages = _messages(using).filter(
        source=settings.source,
        status=Status.PUBLISHED,
        publish_count__gt=0,  # true of all; chooses the index
        topic=topic,
        published_at__lt=DatabaseNow() - age,
    )
    return messages if event_types is None else messages.filter(event_type__in=event_types)


def _put_back_all(messages: QuerySet[OutboxMessage], using: str) -> int:
    with transaction.atomic(using=using):
        ids = list(messages.select_for_update(skip_locked=True).values_list("id", flat=True))
        return sum(
            _messages(using)
            .filter(id__in=ids[start : start + UPDATE_SIZE])
            .update(status=Status.PENDING, next_retry_at=DatabaseNow(), updated_at=DatabaseNow())
            for start in range(0, len(ids), UPDATE_SIZE)
        )


# published -> dead


def mark_rejected(message_id: int, attempt: int, error: BaseException | str, *, using: str) -> bool:
    """Give up a message that can never be handled; False if it was no longer in hand."""
    messages = _messages(using).filter(id=message_id, status=Status.PUBLISHED, publish_count=attempt)
    return _give_up(messages, failures.Stage.HANDLE, error, using)


# dead -> pending


def retry(messages: QuerySet[Any], *, using: str, rate: int | None = None) -> int:
    """Give dead messages, of outbox or inbox, a new life; returns how many were dead and now are pending.

    ``last_error`` stays until the next success, for whoever looks.

    Args:
        messages: which; those among them that are not dead stay as they are.
        using: alias of the database.
        rate: how many become due a second, in the order of their ids, so that what has just
            recovered is not flooded; None makes all due at once.
    """
    return sum(retry_in_batches(messages, using=using, rate=rate))


def retry_in_batches(messages: QuerySet[Any], *, using: str, rate: int | None = None) -> Iterator[int]:
    """As ``retry``, by the order of ids, yielding how many after each batch, which is a transaction of its own.

    It may end after any of them, by a kill as well: what was retried is pending, the rest is dead, and a
    second retry goes on with that.
    """
    # By id > 0, which chooses the index.
    dead = messages.using(using).filter(status=Status.DEAD).order_by("id")
    seen = last_id = 0
    while ids := list(dead.filter(id__gt=last_id).values_list("id", flat=True)[:UPDATE_SIZE]):
        due = DatabaseNow() if rate is None else _spread(ids, seen, rate)
        yield _revive(_rows(messages, using).filter(id__in=ids), due)
        seen, last_id = seen + len(ids), ids[-1]


def _spread(ids: Sequence[int], before: int, rate: int) -> Case:
    """Due times: so many a second, behind those that came before."""
    last_of_second = {(before + place) // rate: id for place, id in enumerate(ids)}
    return Case(
        *[When(id__lte=id, then=DatabaseNow() + timedelta(seconds=s)) for s, id in last_of_second.items()],
        output_field=DateTimeField(),
    )


def retry_with(message: Any, payload: Any, *, using: str) -> bool:
    """Give a dead message another payload and a new life; False if it has changed since it was read."""
    rows = type(message)._base_manager.using(using).filter(id=message.id)
    with transaction.atomic(using=using):
        current = rows.select_for_update().values_list("updated_at", flat=True).first()
        return current == message.updated_at and bool(_revive(rows, DatabaseNow(), payload=payload))


def _revive(messages: QuerySet[Any], due: Any, **changes: Any) -> int:
    return messages.filter(status=Status.DEAD).update(
        status=Status.PENDING,
        retry_count=0,
        delivery_count=0,
        next_retry_at=due,
        updated_at=DatabaseNow(),
        **changes,
    )


def _rows(messages: QuerySet[Any], using: str) -> QuerySet[Any]:
    """All rows of the table that some messages are in."""
    rows: QuerySet[Any] = messages.model._base_manager.using(using)
    return rows


def _messages(using: str) -> QuerySet[OutboxMessage]:
    return OutboxMessage.objects.using(using)


def _count_failure(
    message_id: int,
    leaves: str,
    publish_count: int,
    error: BaseException | str,
    delay: timedelta | None,
    using: str,
) -> str:
    with transaction.atomic(using=using):
        message = _messages(using).select_for_update().filter(id=message_id).first()
        if message is None:
            raise MessageNotFound(message_id)
        if message.status != leaves or message.publish_count != publish_count:
            return str(message.status)
        count = message.retry_count + 1
        alive = count < message.max_retry
        wait = backoff(count) if delay is None else delay
        status = Status.PENDING if alive else Status.DEAD
        text = failures.error_text(error)
        _messages(using).filter(id=message_id, status=leaves).update(
            status=status,
            retry_count=count,
            delivery_count=0,  # the process outlived it
            next_retry_at=DatabaseNow() + wait if alive else None,
            last_error=text,
            fingerprint=failures.fingerprint(error),
            updated_at=DatabaseNow(),
        )
        stage = failures.Stage.SEND if leaves == Status.PENDING else failures.Stage.HANDLE
        _keep(message, stage, error, text, final=not alive, using=using)
        return str(status)


def _give_up(messages: QuerySet[OutboxMessage], stage: str, error: BaseException | str, using: str) -> bool:
    with transaction.atomic(using=using):
        message = messages.select_for_update().first()
        if message is None:
            return False
        text = failures.error_text(error)
        _messages(using).filter(id=message.id).update(
            status=Status.DEAD,
            next_retry_at=None,
            last_error=text,
            fingerprint=failures.fingerprint(error),
            updated_at=DatabaseNow(),
        )
        _keep(message, stage, error, text, final=True, using=using)
        return True


def _keep(
    message: OutboxMessage, stage: str, error: BaseException | str, text: str, *, final: bool, using: str
) -> None:
    """Keep a failure as a row of its own; if it was the last, send a copy of the message as well."""
    failures.record(message, stage, error, text, final=final, using=using)
    if final:
        group = settings.consumer_group if stage == failures.Stage.HANDLE else ""
        dead_letters.announce(message, error, text, group=group, using=using)
