"""Deleting messages, and what is kept of their failures, batch by batch."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

BATCH_SIZE = 1000


def delete(messages: QuerySet[Any], *, using: str, batch_size: int = BATCH_SIZE) -> int:
    """Delete messages; returns how many.

    Each batch is a transaction of its own, so that no lock is held for long.

    Args:
        messages: which; what no longer fits when its turn comes stays.
        using: alias of the database.
        batch_size: rows a transaction.
    """
    total = 0
    while True:
        with transaction.atomic(using=using):
            deleted = _delete(messages.using(using).order_by()[:batch_size], messages.model, using)
        total += len(deleted)
        if len(deleted) < batch_size:
            return total


def delete_batch(messages: QuerySet[Any], ids: Collection[int], *, using: str) -> list[str]:
    """Delete those of some messages that have one of these ids, in one transaction; returns the states they had."""
    with transaction.atomic(using=using):
        return _delete(messages.using(using).filter(id__in=ids).order_by(), messages.model, using)


def _delete(messages: QuerySet[Any], model: type[Any], using: str) -> list[str]:
    """Lock, then delete, so that one that an operator retries meanwhile stays, with its failures."""
    locked = list(messages.select_for_update(skip_locked=True).values_list("id", "status"))
    _delete_rows(model, [id for id, _ in locked], using)
    return [status for _, status in locked]


def _delete_rows(model: type[Any], ids: list[int], using: str) -> None:
    """Delete rows with what belongs to them, in one statement a table.

    Django's own ``delete()`` reads each row before, to look for what belongs to it; that is left to
    it where a project has foreign keys of its own to messages.
    """
    rows = model._base_manager.using(using).filter(id__in=ids)
    fields = model._meta.get_fields(include_hidden=True)  # also those without a name back, as by related_name="+"
    relations = [field for field in fields if field.auto_created and not field.concrete]
    if any(relation.related_model._meta.app_label != model._meta.app_label for relation in relations):
        rows.only("id").delete()
        return
    for relation in relations:
        belonging = relation.related_model._base_manager.using(using)
        belonging.filter(**{f"{relation.field.name}__in": ids}).delete()
    rows._raw_delete(using)
