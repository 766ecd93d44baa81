"""What a write changes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from django.db import transaction

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def stored(model: type[Any]) -> dict[int, dict[str, Any]]:
    """All rows by id."""
    return {row["id"]: row for row in model.objects.values()}


def changes(model: type[Any], write: Callable[[], Any]) -> dict[int, set[str]]:
    """By id, the columns that a write changes; of a row that it deletes, ``gone``."""
    model.objects.update(updated_at=LONG_AGO)
    before = stored(model)
    with transaction.atomic():
        write()
    after = stored(model)
    differing = {
        id: {name for name, value in row.items() if after[id][name] != value} if id in after else {"gone"}
        for id, row in before.items()
    }
    return {id: names for id, names in differing.items() if names}
