"""Changing the outbox's settings for a while."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.test import override_settings

_numbers = itertools.count()


@contextmanager
def outbox_settings(*, without: Collection[str] = (), **changes: Any) -> Iterator[None]:
    """Change keys of ``OUTBOX``, or leave some out."""
    kept = {key: value for key, value in settings.OUTBOX.items() if key not in without}
    with override_settings(OUTBOX={**kept, **changes}):
        yield


@contextmanager
def own_broker() -> Iterator[None]:
    """Use a memory broker that no other test has used, so that nothing is known of it."""
    with outbox_settings(BROKER={**settings.OUTBOX["BROKER"], "URL": f"memory://own-{next(_numbers)}"}):
        yield
