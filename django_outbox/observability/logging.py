"""What log lines say of messages: which one it is, never what it carries, and repeated failures in one sentence.

A log record about a message has ``action``, ``message_id``, ``event_id``, ``topic`` and ``attempt``, one of the inbox
also ``group``, one of a failure also ``error_type``, the exception's class. An error's text may quote the payload; its values are hidden there.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django_outbox.events.writer import Outgoing
from django_outbox.exceptions import text_of
from django_outbox.models import InboxMessage
from django_outbox.observability.masking import without_values
from django_outbox.observability.text import visible
from django_outbox.state.failures import fingerprint, place_of
from django_outbox.state.rows import LockedMessage

Message = Outgoing | LockedMessage | InboxMessage
_Name = tuple[str, str, int, str]
"""Of a kind of failures: event type, action, level and cause."""

SHOWN = 10
SECONDS = 60.0
KINDS = 1000
LONGEST_TEXT = 2000
LONGEST_LOOKED_AT = 100_000


def log_extra(action: str, message: Message, *, counted: bool = False) -> dict[str, object]:
    """What a log record says of a message beside its text; see ``attempt_of``."""
    extra: dict[str, object] = {
        "action": action,
        "message_id": message.id,
        "event_id": str(message.event_id),
        "topic": message.topic,
        "attempt": attempt_of(message, counted=counted),
    }
    if isinstance(message, InboxMessage):
        extra["group"] = message.group
    return extra


def attempt_of(message: Message, *, counted: bool = False) -> int:
    """Which publication this is or, of the inbox, which try, counted from 1.

    Args:
        message: as it was when the try began.
        counted: a message of the inbox whose failure is among its ``retry_count`` already.
    """
    if isinstance(message, InboxMessage):
        return message.retry_count + (not counted)
    return message.attempt if isinstance(message, Outgoing) else message.publish_count


def said(error: BaseException | str, message: Message) -> str:
    """An error in words and its place in the project's code, without the values of the payload that it may quote."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {text_of(error)}"
    shown = without_values(text[:LONGEST_LOOKED_AT], payload_of(message))[:LONGEST_TEXT]
    place = place_of(error)
    return f"{shown} ({place})" if place else shown


def said_in_full(error: BaseException, message: Message) -> str:
    """An error with its traceback, without the values of the payload that it may quote."""
    return without_values("".join(traceback.format_exception(error)).rstrip(), payload_of(message))


def payload_of(message: Message) -> Any:
    """What a message carries, as far as it can be read."""
    if not isinstance(message, InboxMessage):
        return _parsed(message.payload_json)
    if message.raw_value is None:
        return message.payload
    return _parsed(bytes(message.raw_value).decode(errors="replace"))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


@dataclass(slots=True)
class _Kind:
    """Failures of one kind since ``since``: how many were told one by one, and how many were not."""

    log: logging.Logger
    since: float
    shown: int = 0
    hidden: int = 0
    last: Any = None


class Repeats:
    """Tells the first ten failures of a kind one by one, and sums up in one sentence what a minute brings beyond.

    A kind is an event type, an action, a level, which is another one for a failure that is the last, and a fingerprint:
    the exception's class and its place in the code. What is not told one by one is still there on the level DEBUG. A
    handler that fails ten thousand times in a minute writes eleven lines.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[_Name, _Kind] = {}
        self._next_look_at = 0.0

    def tell(
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
        """Log a failure of a message, or count it.

        Args:
            log, level, text, arguments: as of ``Logger.log``; texts among the arguments are put in one line.
            action: what became of the message: "failed" or "dead".
            message: which.
            error: what it failed of.
            counted: see ``attempt_of``.
        """
        # Sources and types of others, and errors that quote them, could otherwise write lines of their own.
        arguments = tuple(visible(each) if isinstance(each, str) else each for each in arguments)
        extra = log_extra(action, message, counted=counted)
        if isinstance(error, BaseException):
            extra["error_type"] = type(error).__name__
        kind = self._of(log, (message.event_type, action, level, fingerprint(error)))
        if kind.shown < SHOWN:
            kind.shown += 1
            log.log(level, text, *arguments, extra=extra)
        else:
            kind.hidden += 1
            kind.last = message.id
            log.debug(text, *arguments, extra=extra)

    def sum_up(self, *, now: bool = False) -> None:
        """Tell what was counted of kinds whose minute is over; with ``now`` of all. The loops call this at each turn."""
        at = self._clock()
        if not self._kinds or (at < self._next_look_at and not now):
            return
        for name, kind in list(self._kinds.items()):
            if now or at - kind.since >= SECONDS:
                del self._kinds[name]
                _tell_hidden(name, kind, at)
        self._next_look_at = min((kind.since + SECONDS for kind in self._kinds.values()), default=0.0)

    def _of(self, log: logging.Logger, name: _Name) -> _Kind:
        self.sum_up()
        if name not in self._kinds and len(self._kinds) >= KINDS:
            name = ("", name[1], name[2], "of many kinds")
        kind = self._kinds.setdefault(name, _Kind(log, self._clock()))
        self._next_look_at = min(self._next_look_at or kind.since + SECONDS, kind.since + SECONDS)
        return kind


def _tell_hidden(name: _Name, kind: _Kind, at: float) -> None:
    event_type, action, level, cause = name
    if kind.hidden:
        kind.log.log(
            level,
            "%d more messages%s %s within %.0f s as those before: %s. The last one was %s.",
            kind.hidden,
            f" ({visible(event_type)})" if event_type else "",
            "are dead" if action == "dead" else "failed",
            at - kind.since,
            visible(cause),
            kind.last,
            extra={"action": "repeated", "count": kind.hidden},
        )


repeats = Repeats()
"""Of this process: it is one relay or one consumer."""
