"""Deletes messages and their failures in batches."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

BATCH_SIZE = 1000


def delete(messages: QuerySet[Any], *, using: str, batch_size: int = BATCH_SIZE) -> int:
    """Delete messages; returns how many. Each batch is a transaction, so that no lock is held for long.

    Args:
        messages: the messages; those that no longer match when they are locked stay.
        using: alias of the database.
        batch_size: rows per transaction.
    """
    total = 0
    while True:
        with transaction.atomic(using=using):
            deleted = _delete(messages.using(using).order_by()[:batch_size], messages.model, using)
        total += len(deleted)
        if len(deleted) < batch_size:
            return total


def delete_batch(messages: QuerySet[Any], ids: Collection[int], *, using: str) -> list[str]:
    """Delete the messages with these ids in one transaction; returns their statuses."""
    with transaction.atomic(using=using):
        return _delete(messages.using(using).filter(id__in=ids).order_by(), messages.model, using)


def _delete(messages: QuerySet[Any], model: type[Any], using: str) -> list[str]:
    """Lock, then delete: a message that an operator has retried since stays, with its failures."""
    locked = list(messages.select_for_update(skip_locked=True).values_list("id", "status"))
    _delete_rows(model, [id for id, _ in locked], using)
    return [status for _, status in locked]


def _delete_rows(model: type[Any], ids: list[int], using: str) -> None:
    """Delete rows and their failures, with one statement per table.

    Django's ``delete()`` reads each row first; it is only used if the project has foreign keys to messages.
    """
    rows = model._base_manager.using(using).filter(id__in=ids)
    fields = model._meta.get_fields(include_hidden=True)  # also those with related_name="+"
    relations = [field for field in fields if field.auto_created and not field.concrete]
    if any(relation.related_model._meta.app_label != model._meta.app_label for relation in relations):
        rows.only("id").delete()
        return
    for relation in relations:
        related = relation.related_model._base_manager.using(using)
        related.filter(**{f"{relation.field.name}__in": ids}).delete()
    rows._raw_delete(using)
