"""The circuit breaker: pauses a handler that fails again and again for the same reason."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from inspect import unwrap
from threading import Lock
from typing import NamedTuple

from django_outbox.conf import settings
from django_outbox.consumer.pauses import Pauses
from django_outbox.exceptions import handlers_of
from django_outbox.handlers.handler import Handler
from django_outbox.models import Pause
from django_outbox.models.lengths import HANDLER_LENGTH
from django_outbox.state.failures import fingerprint
from django_outbox.state.pauses import resume, trip

log = logging.getLogger("django_outbox.consumer")


class Streak(NamedTuple):
    """Failures of a handler since its last success, all with the same fingerprint."""

    fingerprint: str
    failures: int


class Breaker:
    """Counts the failures of one consumer's handlers; see ``CIRCUIT_BREAKER``.

    The pause is for all consumers of the group. Its first message after the pause decides how it goes on.
    """

    def __init__(self, using: str, group: str, pauses: Pauses) -> None:
        self._using = using
        self._group = group
        self._pauses = pauses
        self._streaks: dict[str, Streak] = {}
        self._lock = Lock()  # of the streaks, which lanes share

    def failed(self, handlers: Sequence[Handler], error: Exception) -> None:
        """Count a failure of a message with these handlers. Not in a transaction."""
        breaker = settings.circuit_breaker
        if breaker is None or not handlers:
            return
        name = _failing(handlers, error).name
        if len(name) > HANDLER_LENGTH:
            return
        found = fingerprint(error)
        with self._lock:
            before = self._streaks.get(name)
            streak = Streak(found, before.failures + 1 if before and before.fingerprint == found else 1)
            self._streaks[name] = streak
        is_trial = self._pauses.by_breaker(name) is not None
        if streak.failures < breaker.failures and not is_trial:
            return
        reason = f"failed {streak.failures} times in a row: {found}"
        is_new = trip(self._group, name, breaker.pause, reason, using=self._using)
        self._pauses.expire()
        if is_new:
            log.error(
                "The handler %s is paused for %g s (CIRCUIT_BREAKER), as it %s",
                name,
                breaker.pause.total_seconds(),
                reason,
                extra={"action": "paused", "handler": name},
            )

    def succeeded(self, handlers: Sequence[Handler]) -> None:
        """End the count of these handlers, and the pause of one that was tried. Not in a transaction."""
        for handler in handlers:
            with self._lock:
                self._streaks.pop(handler.name, None)
            pause_id = self._pauses.by_breaker(handler.name)
            if pause_id is None:
                continue
            # Not an operator's pause that has replaced it.
            by_breaker = Pause.objects.using(self._using).filter(id=pause_id, until__isnull=False)
            ended, messages = resume(by_breaker, using=self._using, wait=True)
            self._pauses.expire()
            if ended:
                log.info(
                    "The handler %s succeeds again and is resumed; %d messages are due.",
                    handler.name,
                    messages,
                    extra={"action": "resumed", "handler": handler.name},
                )


def _failing(handlers: Sequence[Handler], error: Exception) -> Handler:
    """The handler that raised an error; the first if none of them did, as for an error at commit."""
    named = handlers_of(error)  # for an error without a frame of the handler, such as a payload mismatch
    if found := next((each for each in handlers if each.name == named), None):
        return found
    codes = {frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)}
    return next((each for each in handlers if getattr(unwrap(each.function), "__code__", None) in codes), handlers[0])
