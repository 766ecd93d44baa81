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
            _delete_rows(messages.model, ids, using)
        total += len(ids)
        if len(ids) < batch_size:
            return total


def _delete_rows(model: type[Any], ids: list[int], using: str) -> None:
    """Delete rows with what belongs to them, in one statement a table.

    Django's own ``delete()`` reads each row before, to look for what belongs to it; that is left to
    it where a project has foreign keys of its own to messages.
    """
    rows = model._base_manager.using(using).filter(id__in=ids)
    relations = model._meta.related_objects
    if any(relation.related_model._meta.app_label != model._meta.app_label for relation in relations):
        rows.only("id").delete()
        return
    for relation in relations:
        belonging = relation.related_model._base_manager.using(using)
        belonging.filter(**{f"{relation.field.name}__in": ids}).delete()
    rows._raw_delete(using)
