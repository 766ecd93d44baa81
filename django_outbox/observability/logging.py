"""Log lines about messages: their identity, never their payload, and a summary of repeated failures.

A log record about a message has ``action``, ``message_id``, ``event_id``, ``topic`` and ``attempt``; of the inbox also
``group``; of a failure also ``error_type``, the exception's class; of a consumer with several lanes also ``lane``, its
number. Payload values that an error quotes are masked. If the payload is bytes, only the class of the error is logged.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django_outbox.events.payloads import has_bytes
from django_outbox.events.writer import Outgoing
from django_outbox.exceptions import text_of
from django_outbox.models import InboxMessage
from django_outbox.observability.masking import without_values
from django_outbox.observability.text import visible
from django_outbox.state.failures import fingerprint, place_of
from django_outbox.state.rows import LockedMessage

Message = Outgoing | LockedMessage | InboxMessage
_Kind = tuple[str, str, int, str]
"""A kind of failure: event type, action, log level and cause."""

LANE_THREAD = "outbox-lane-"
"""The names of lanes' threads begin with it, and end with a number from 1."""
SHOWN = 10
SECONDS = 60.0
KINDS = 1000
LONGEST_TEXT = 2000
LONGEST_LOOKED_AT = 100_000


def log_extra(action: str, message: Message, *, counted: bool = False) -> dict[str, object]:
    """The extra attributes of a log record about a message; ``counted``: see ``attempt_of``."""
    extra: dict[str, object] = {
        "action": action,
        "message_id": message.id,
        "event_id": str(message.event_id),
        "topic": message.topic,
        "attempt": attempt_of(message, counted=counted),
    }
    if isinstance(message, InboxMessage):
        extra["group"] = message.group
    if lane := lane_of(threading.current_thread().name):
        extra["lane"] = lane
    return extra


def lane_of(thread_name: str | None) -> int | None:
    """The number of the lane that a thread works for; None for other threads."""
    if thread_name is None or not thread_name.startswith(LANE_THREAD):
        return None
    return int(thread_name.removeprefix(LANE_THREAD))


def attempt_of(message: Message, *, counted: bool = False) -> int:
    """The number of this publication or, of the inbox, of this attempt, counted from 1.

    ``counted``: the ``retry_count`` of an inbox message already includes this failure.
    """
    if isinstance(message, InboxMessage):
        return message.retry_count + (not counted)
    return message.attempt if isinstance(message, Outgoing) else message.publish_count


def said(error: BaseException | str, message: Message, text: str | None = None) -> str:
    """An error and its position in the project's code, with payload values masked.

    Args:
        text: replaces the class and text of the error.
    """
    if text is None:
        text = error if isinstance(error, str) else f"{type(error).__name__}: {text_of(error)}"
    is_unread = isinstance(message, InboxMessage) and not message.source
    # This package wrote the first line of a text, and of all errors about a record that no handler got.
    kept = text.partition("\n")[0] if isinstance(error, str) or is_unread else type(error).__name__
    shown = without_values(text[:LONGEST_LOOKED_AT], payload_of(message), kept)[:LONGEST_TEXT]
    place = place_of(error)
    return f"{shown} ({place})" if place else shown


def said_in_full(error: BaseException, message: Message) -> str:
    """An error with its traceback, with payload values masked."""
    text = "".join(traceback.format_exception(error)).rstrip()
    return without_values(text, payload_of(message), type(error).__name__)


def payload_of(message: Message) -> Any:
    """The payload of a message, as far as it can be read."""
    text: str | bytes
    if has_bytes(message):
        return bytes(message.raw_value or b"")
    if message.raw_value is not None:
        text = bytes(message.raw_value)
    elif isinstance(message, InboxMessage):
        return message.payload
    else:
        text = message.payload_json
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


@dataclass(slots=True)
class _Count:
    """Failures of one kind: how many were logged, and how many were only counted."""

    log: logging.Logger
    since: float
    shown: int = 0
    hidden: int = 0
    last: Any = None


class Repeats:
    """Logs the first ten failures of a kind per minute, and one summary of the others.

    A handler that fails ten thousand times in a minute writes eleven lines. The level DEBUG shows all failures.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # for what follows: lanes count failures while the loop sums up
        self._counts: dict[_Kind, _Count] = {}

    def log_failure(
        self,
        log: logging.Logger,
        level: int,
        action: str,
        message: Message,
        error: BaseException | str,
        text: str,
        *arguments: object,
        counted: bool = False,
    ) -> None:
        """Log a failure of a message, or count it; ``counted``: see ``attempt_of``."""
        # Foreign names and errors may contain line breaks, and could forge log lines.
        arguments = tuple(visible(each) if isinstance(each, str) else each for each in arguments)
        extra = log_extra(action, message, counted=counted)
        if isinstance(error, BaseException):
            extra["error_type"] = type(error).__name__
        count = self._count_of(log, (message.event_type, action, level, fingerprint(error)))
        if count.shown < SHOWN:
            count.shown += 1
            log.log(level, text, *arguments, extra=extra)
        else:
            count.hidden += 1
            count.last = message.id
            log.debug(text, *arguments, extra=extra)

    def sum_up(self, *, now: bool = False) -> None:
        """Log the summaries of kinds whose minute is over, or of all. The loops call this on each iteration."""
        at = self._clock()
        while (ended := self._take_oldest(at, now=now)) is not None:
            _log_summary(*ended, at)

    def _take_oldest(self, at: float, *, now: bool) -> tuple[_Kind, _Count] | None:
        with self._lock:
            oldest = next(iter(self._counts.items()), None)
            if oldest is None or (not now and at - oldest[1].since < SECONDS):
                return None
            del self._counts[oldest[0]]
            return oldest

    def _count_of(self, log: logging.Logger, kind: _Kind) -> _Count:
        self.sum_up()
        with self._lock:
            if kind not in self._counts and len(self._counts) >= KINDS:
                kind = ("", kind[1], kind[2], "various causes")
            return self._counts.setdefault(kind, _Count(log, self._clock()))


def _log_summary(kind: _Kind, count: _Count, at: float) -> None:
    event_type, action, level, cause = kind
    if count.hidden:
        count.log.log(
            level,
            "%d more messages%s %s within %.0f s for the same reason: %s. The last one was %s.",
            count.hidden,
            f" ({visible(event_type)})" if event_type else "",
            "are dead" if action == "dead" else "failed",
            at - count.since,
            visible(cause),
            count.last,
            extra={"action": "repeated", "count": count.hidden},
        )


repeats = Repeats()
"""For this process, which is one relay or one consumer."""
