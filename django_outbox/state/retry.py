"""The operator's retry: dead or consumed messages of outbox or inbox become pending again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import Case, DateTimeField, QuerySet, When

from django_outbox.models.fields import DatabaseNow, due_at
from django_outbox.models.message import status_is

BATCH_SIZE = 500


def retry(messages: QuerySet[Any], *, using: str, rate: int | None = None, status: str = "dead") -> int:
    """Make messages pending with all their retries; returns how many. Others stay as they are.

    Args:
        status: the status that they leave: "dead", or "consumed" for messages of the outbox.
        rate: messages per second that become due, ordered by id, to protect a recovering service; None makes all
            due at once.
    """
    return sum(retry_in_batches(messages, using=using, rate=rate, status=status))


def retry_in_batches(messages: QuerySet[Any], *, using: str, rate: int | None, status: str) -> Iterator[int]:
    """As ``retry``, yielding the count of each batch. Each batch is a transaction.

    It may stop after any batch, even by a kill. A second retry continues with the messages that still have the status.
    """
    ended = messages.using(using).filter(status=status).order_by("id")
    retried = last_id = 0
    # "id > 0" makes the index on unfinished messages usable.
    while ids := list(ended.filter(id__gt=last_id).values_list("id", flat=True)[:BATCH_SIZE]):
        due = DatabaseNow() if rate is None else _spread(ids, retried, rate)
        yield _retry(messages.model._base_manager.using(using).filter(id__in=ids), due, status)
        retried, last_id = retried + len(ids), ids[-1]


def retry_with_payload(message: Any, payload: Any, *, using: str) -> bool:
    """Retry a dead message with another payload; False if the row has changed since ``message`` was read."""
    rows = type(message)._base_manager.using(using).filter(id=message.id)
    with transaction.atomic(using=using):
        current = rows.select_for_update().values_list("updated_at", flat=True).first()
        return current == message.updated_at and bool(_retry(rows, DatabaseNow(), "dead", payload=payload))


def _spread(ids: Sequence[int], retried: int, rate: int) -> Case:
    """Due times at a rate per second, after those of the messages that were retried before."""
    last_of_second = {(retried + index) // rate: id for index, id in enumerate(ids)}
    return Case(
        *[When(id__lte=id, then=due_at(timedelta(seconds=s))) for s, id in last_of_second.items()],
        output_field=DateTimeField(),
    )


def _retry(rows: QuerySet[Any], due: Any, status: str, **changes: Any) -> int:
    counts = {"retry_count": 0, "delivery_count": 0}
    return rows.filter(status_is(status)).update(
        status="pending", **counts, next_retry_at=due, consumed_at=None, updated_at=DatabaseNow(), **changes
    )
