"""The delay between a failure and the next try."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta

from django_outbox.exceptions import Retry

DOUBLINGS = 5
MAX_BACKOFF_SECONDS = 2**DOUBLINGS
JITTER = 0.1


def backoff(failures: int, jitter: Callable[[], float] = random.random) -> timedelta:
    """The delay after the n-th failure: 1, 2, 4, 8, 16, 32, 32, ... s plus up to 10 %."""
    seconds = 2 ** min(failures - 1, DOUBLINGS)
    return timedelta(seconds=seconds * (1 + JITTER * jitter()))


def delay_after(error: BaseException | str, failures: int) -> timedelta:
    """The delay after the n-th failure: the one that the handler asked for, or the backoff."""
    if isinstance(error, Retry) and error.delay is not None:
        return error.delay
    return backoff(failures)
