"""Changing the outbox's settings for a while."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.test import override_settings


@contextmanager
def outbox_settings(*, without: Collection[str] = (), **changes: Any) -> Iterator[None]:
    """Change keys of ``OUTBOX``, or leave some out."""
    kept = {key: value for key, value in settings.OUTBOX.items() if key not in without}
    with override_settings(OUTBOX={**kept, **changes}):
        yield
