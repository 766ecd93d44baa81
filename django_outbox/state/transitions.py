"""Transitions that outbox and inbox share: a message fails, dies or is requeued.

Each takes ``rows``, a query for one message in the state that the transition leaves, such as
``outbox.in_delivery()`` or ``inbox.in_delivery()``. If the message has left that state, nothing changes.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, TypeVar

from django.db import transaction
from django.db.models import QuerySet

from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.models.fields import DatabaseNow, due_at
from django_outbox.state import dead_letters, failures
from django_outbox.state.backoff import delay_after
from django_outbox.state.inbox_rows import key_as_text
from django_outbox.state.ordering import release_next

Status = OutboxMessage.Status

M = TypeVar("M", OutboxMessage, InboxMessage)


def mark_failed(rows: QuerySet[M], error: BaseException | str) -> M | None:
    """Count a failure: the message is pending with a delay, or dead after its last retry.

    Returns it as it is then; None if it had left its state. A ``Retry`` may name the delay.
    """
    with transaction.atomic(using=rows.db):
        message = rows.select_for_update().first()
        if message is None:
            return None
        count = message.retry_count + 1
        wait = delay_after(error, count) if count < message.max_retry else None
        # This delivery did not kill the process.
        return _fail(rows, message, error, wait, retry_count=count, delivery_count=0)


def mark_dead(rows: QuerySet[M], error: BaseException | str) -> M | None:
    """Give up a message that can never be sent or handled; None if it had left its state."""
    with transaction.atomic(using=rows.db):
        message = rows.select_for_update().first()
        if message is None:
            return None
        if isinstance(message, InboxMessage) and not message.source:  # a record that was not read yet has no key
            return _fail(rows, message, error, None, message_key=key_as_text(message.raw_key))
        return _fail(rows, message, error, None)


def requeue(rows: QuerySet[Any], until: datetime | timedelta, **changes: Any) -> bool:
    """Let a message wait, uncounted, until a time or for a timedelta; False if it had left its state."""
    return bool(
        rows.update(
            status=Status.PENDING, delivery_count=0, next_retry_at=due_at(until), updated_at=DatabaseNow(), **changes
        )
    )


def _fail(rows: QuerySet[M], message: M, error: BaseException | str, wait: timedelta | None, **changes: Any) -> M:
    """Write a failure; the message is dead if ``wait`` is None."""
    stage, attempt = failures.stage_of(message), failures.attempt_of(message)
    changes |= {"status": Status.DEAD if wait is None else Status.PENDING, **failures.columns(error)}
    rows.update(**changes, next_retry_at=None if wait is None else due_at(wait), updated_at=DatabaseNow())
    for name, value in changes.items():
        setattr(message, name, value)
    failures.record([message], stage=stage, attempt=attempt, using=rows.db)
    if wait is None:
        dead_letters.publish_copy(message, error, stage=stage, using=rows.db)
        if isinstance(message, InboxMessage):
            release_next(message, using=rows.db)
    return message
