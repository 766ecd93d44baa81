"""Logs an outage when it begins, once a minute, and when it ends, however many parts are unavailable."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

REMINDER_SECONDS = 60.0
JOIN_SECONDS = 60.0  # a fault this soon after the beginning of an outage is part of it

_TOPIC = "Topic "


def topic_subject(topic: str) -> str:
    """Return the name of a topic as the subject of a log line."""
    return f"{_TOPIC}{topic}"


@dataclass(slots=True)
class _Outage:
    """One outage. If it is separate, nothing else is part of it, as with a topic that does not exist."""

    began_at: float
    level: int  # of its log lines, except the last
    separate: bool
    down: dict[str, str] = field(default_factory=dict)  # reasons by subject, of what is unavailable now
    subjects: list[str] = field(default_factory=list)  # everything that was unavailable
    logged_at: float | None = None
    is_reported: bool = False  # since the last log line
    ok_since: float | None = None  # when the last subject recovered


class OutageLog:
    """Everything that is unavailable to one process.

    A failing broker shows as topics without acknowledgements and as lost connections: both are one outage. It ends
    ``quiet_seconds`` after the last subject recovered, as clients may fail again at the next try.
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float], *, quiet_seconds: float = 0.0) -> None:
        self._log = log
        self._clock = clock
        self._quiet_seconds = quiet_seconds
        self._outages: list[_Outage] = []
        self._is_collecting = False

    @property
    def is_active(self) -> bool:
        """True during an outage, except separate ones."""
        return any(not outage.separate for outage in self._outages)

    def report(
        self, subject: str, reason: str, *, level: int = logging.ERROR, separate: bool = False, is_new: bool = False
    ) -> None:
        """Report that something is (still) unavailable.

        Args:
            subject: what is unavailable, as the beginning of a sentence.
            reason: a sentence.
            separate: True if it is never part of another outage.
            is_new: True if it was not reported before with this reason; if separate, it is logged at once.
        """
        self.log_ended()
        outage = next((outage for outage in self._outages if subject in outage.down), None)
        if outage is not None and (outage.separate != separate or (separate and is_new)):
            self._withdraw(subject, outage)
            outage = None
        if outage is None and not separate:
            outage = next(filter(self._is_joinable, reversed(self._outages)), None)
        if outage is None:
            outage = _Outage(self._clock(), level, separate)
            self._outages.append(outage)
        outage.down[subject] = reason
        outage.ok_since = None
        outage.is_reported = True
        if subject not in outage.subjects:
            outage.subjects.append(subject)
        if not self._is_collecting:
            self._log_reported()

    @contextmanager
    def combined(self) -> Iterator[None]:
        """Log everything that is reported within the block in one line."""
        self._is_collecting = True
        try:
            yield
        finally:
            self._is_collecting = False
            self._log_reported()

    def resolve(self, subject: str) -> None:
        """Report that something is available."""
        for outage in self._outages:
            if outage.down.pop(subject, None) is not None and not outage.down:
                outage.ok_since = self._clock()
        self.log_ended()

    def log_ended(self, *, shutdown: bool = False) -> None:
        """Log outages that ended; at ``shutdown`` without the quiet time."""
        now = self._clock()
        for outage in list(self._outages):
            if outage.ok_since is None:
                continue
            if shutdown or outage.separate or now - outage.ok_since >= self._quiet_seconds:
                self._outages.remove(outage)
                names, verb = _names(outage.subjects)
                seconds = outage.ok_since - outage.began_at
                self._log.info(
                    "%s %s available again after %.0f s.", names, verb, seconds, extra={"action": "recovered"}
                )

    def _is_joinable(self, outage: _Outage) -> bool:
        is_recent = self._clock() - outage.began_at < JOIN_SECONDS or outage.ok_since is not None
        return is_recent and not outage.separate

    def _withdraw(self, subject: str, outage: _Outage) -> None:
        """Remove a subject that turned out to be another outage."""
        del outage.down[subject]
        outage.subjects.remove(subject)
        if not outage.subjects:
            self._outages.remove(outage)
        elif not outage.down:
            outage.ok_since = self._clock()

    def _log_reported(self) -> None:
        now, extra = self._clock(), {"action": "trouble"}
        for outage in self._outages:
            if not outage.is_reported:
                continue
            outage.is_reported = False
            reasons = " ".join(dict.fromkeys(map(_sentence, outage.down.values())))
            names, verb = _names(outage.down)
            if outage.logged_at is None:
                text = "%s: %s Trying again until it works."
                self._log.log(outage.level, text, names, reasons, extra=extra)
            elif outage.down and now - outage.logged_at >= REMINDER_SECONDS:
                text = "%s %s still unavailable after %.0f s: %s"
                self._log.log(outage.level, text, names, verb, now - outage.began_at, reasons, extra=extra)
            else:
                continue
            outage.logged_at = now


def _names(subjects: Collection[str]) -> tuple[str, str]:
    """Return all subjects as the beginning of a sentence, and the verb after them."""
    topics = [subject.removeprefix(_TOPIC) for subject in subjects if subject.startswith(_TOPIC)]
    others = [subject for subject in subjects if not subject.startswith(_TOPIC)]
    if topics:
        others = [subject[0].lower() + subject[1:] for subject in others]
        others.insert(0, f"Topic{'s' if len(topics) > 1 else ''} {', '.join(topics)}")
    return " and ".join(others), "is" if len(subjects) == 1 else "are"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
