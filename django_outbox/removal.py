"""Deleting messages, and what is kept of their failures, batch by batch."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.db.models import QuerySet

BATCH_SIZE = 1000


def delete(messages: QuerySet[Any], *, using: str, batch_size: int = BATCH_SIZE) -> int:
    """Delete messages; returns how many.

    Each batch is a transaction of its own, so that no lock is held for long. Its rows are locked
    before anything goes, so that one that an operator retries meanwhile stays, with its failures.

    Args:
        messages: which; what no longer fits when its turn comes stays.
        using: alias of the database.
        batch_size: rows a transaction.
    """
    total = 0
    while True:
        with transaction.atomic(using=using):
            locked = messages.using(using).order_by().select_for_update(skip_locked=True)
            ids = list(locked.values_list("id", flat=True)[:batch_size])
            # Their ids alone are read again, not their payloads.
            messages.model._base_manager.using(using).filter(id__in=ids).only("id").delete()
        total += len(ids)
        if len(ids) < batch_size:
            return total
