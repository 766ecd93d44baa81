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
from django_outbox.models.fields import DatabaseNow
from django_outbox.state import dead_letters, failures
from django_outbox.state.backoff import delay_after
from django_outbox.state.inbox_rows import key_as_text
from django_outbox.state.ordering import release_next

Status = OutboxMessage.Status

M = TypeVar("M", OutboxMessage, InboxMessage)


def mark_failed(rows: QuerySet[M], error: BaseException | str) -> M | None:
    """Count a failure: the message is pending with a delay, or dead after its last retry.

    Args:
        rows: the message.
        error: what was raised, or the reason. ``Retry`` may name the delay; otherwise it is the backoff.

    Returns:
        The message after the failure; None if it had left its state.
    """
    with transaction.atomic(using=rows.db):
        message = rows.select_for_update().first()
        if message is None:
            return None
        count = message.retry_count + 1
        changes: dict[str, Any] = {"retry_count": count, "delivery_count": 0}  # this delivery did not kill the process
        if count >= message.max_retry:
            return _fail(rows, message, error, Status.DEAD, None, **changes)
        next_try_at = DatabaseNow() + delay_after(error, count)
        return _fail(rows, message, error, Status.PENDING, next_try_at, **changes)


def mark_dead(rows: QuerySet[M], error: BaseException | str) -> M | None:
    """Give up a message that can never be sent or handled; None if it had left its state."""
    with transaction.atomic(using=rows.db):
        message = rows.select_for_update().first()
        if message is None:
            return None
        changes: dict[str, Any] = {}
        if isinstance(message, InboxMessage) and not message.source:  # a record that was not read yet has no key
            changes["message_key"] = key_as_text(message.raw_key)
        return _fail(rows, message, error, Status.DEAD, None, **changes)


def requeue(rows: QuerySet[Any], until: datetime | timedelta) -> bool:
    """Let a message wait, uncounted, until a time or for a timedelta; False if it had left its state."""
    return bool(
        rows.update(status=Status.PENDING, delivery_count=0, next_retry_at=due_at(until), updated_at=DatabaseNow())
    )


def due_at(when: datetime | timedelta) -> Any:
    """A value for ``next_retry_at``; a timedelta counts from now by the database's clock."""
    return DatabaseNow() + when if isinstance(when, timedelta) else when


def _fail(
    rows: QuerySet[M], message: M, error: BaseException | str, status: str, next_retry_at: Any, **changes: Any
) -> M:
    stage, attempt = failures.stage_of(message), failures.attempt_of(message)
    changes |= {"status": status, **failures.columns(error)}
    rows.update(**changes, next_retry_at=next_retry_at, updated_at=DatabaseNow())
    for name, value in changes.items():
        setattr(message, name, value)
    failures.record([message], stage=stage, attempt=attempt, using=rows.db)
    if status == Status.DEAD:
        dead_letters.publish_copy(message, error, stage=stage, using=rows.db)
        if isinstance(message, InboxMessage):
            release_next(message, using=rows.db)
    return message
