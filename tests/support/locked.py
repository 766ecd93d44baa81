"""Rows that another transaction has locked, on any database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from django.db.models import QuerySet


@contextmanager
def locked_by_another() -> Iterator[None]:
    """Who skips locked rows finds none; who waits for them gets them at once."""
    lock = QuerySet.select_for_update

    def select_for_update(rows: QuerySet[Any], *, skip_locked: bool = False, **options: Any) -> QuerySet[Any]:
        return rows.none() if skip_locked else lock(rows, **options)

    with patch.object(QuerySet, "select_for_update", select_for_update):
        yield
