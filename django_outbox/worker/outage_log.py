"""Logs an outage once at its beginning, once a minute while it lasts, and once at its end, whatever it shows as."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

REMINDER_SECONDS = 60.0
# What fails within so long of an outage's beginning is part of it.
JOIN_SECONDS = 60.0

_TOPIC = "Topic "


def topic_subject(topic: str) -> str:
    """What the log calls a topic."""
    return f"{_TOPIC}{topic}"


@dataclass(slots=True)
class _Outage:
    """One outage.

    Attributes:
        began: when, on the clock.
        level: of its log lines but the last.
        apart: a trouble of its own, such as a topic that does not exist: nothing else is part of it.
        down: what is unavailable, with the reason.
        subjects: all that was unavailable.
        logged: when the last line was logged; None before the first.
        is_reported: whether it was reported since.
        well_since: when the last of them came back; None while something is unavailable.
    """

    began: float
    level: int
    apart: bool
    down: dict[str, str] = field(default_factory=dict)
    subjects: list[str] = field(default_factory=list)
    logged: float | None = None
    is_reported: bool = False
    well_since: float | None = None


class OutageLog:
    """What is unavailable to one process.

    A broker that fails shows as topics without acknowledgements, as lost connections, or as one after the other: all of
    it is one outage. It is over when all has been well for ``quiet`` seconds, as clients need more than one try at times.
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float], *, quiet: float = 0.0) -> None:
        self._log = log
        self._clock = clock
        self._quiet = quiet
        self._outages: list[_Outage] = []
        self._is_gathering = False

    @property
    def lasts(self) -> bool:
        """Whether something is unavailable, or was a moment ago."""
        return any(not outage.apart for outage in self._outages)

    def report(
        self, subject: str, reason: str, *, level: int = logging.ERROR, apart: bool = False, is_new: bool = False
    ) -> None:
        """Note that something is (still) unavailable.

        Args:
            subject: as a sentence begins with it.
            reason: a sentence.
            level: of the log lines.
            apart: whether it is never part of another outage.
            is_new: whether the reason is another one than before, which is logged at once if it is apart.
        """
        self.tick()
        known = next((outage for outage in self._outages if subject in outage.down), None)
        if known is not None and (known.apart != apart or (apart and is_new)):
            self._withdraw(subject, known)
            known = None
        outage = known or self._joinable(apart) or self._begin(level, apart)
        outage.down[subject] = reason
        outage.well_since = None
        outage.is_reported = True
        if subject not in outage.subjects:
            outage.subjects.append(subject)
        if not self._is_gathering:
            self._tell()

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Name all that is reported within in one line."""
        self._is_gathering = True
        try:
            yield
        finally:
            self._is_gathering = False
            self._tell()

    def over(self, subject: str) -> None:
        """Note that something is available."""
        for outage in self._outages:
            if outage.down.pop(subject, None) is not None and not outage.down:
                outage.well_since = self._clock()
        self.tick()

    def tick(self, *, ending: bool = False) -> None:
        """Log the end of outages that are over; with ``ending`` without waiting whether they come back."""
        now = self._clock()
        for outage in list(self._outages):
            if outage.well_since is None:
                continue
            if ending or outage.apart or now - outage.well_since >= self._quiet:
                self._outages.remove(outage)
                self._log.info(
                    "%s %s available again after %.0f s.",
                    _names(outage.subjects),
                    "is" if len(outage.subjects) == 1 else "are",
                    outage.well_since - outage.began,
                    extra={"action": "recovered"},
                )

    def _joinable(self, apart: bool) -> _Outage | None:
        now = self._clock()
        for outage in reversed(self._outages):
            is_recent = now - outage.began < JOIN_SECONDS or outage.well_since is not None
            if is_recent and not apart and not outage.apart:
                return outage
        return None

    def _begin(self, level: int, apart: bool) -> _Outage:
        outage = _Outage(self._clock(), level, apart)
        self._outages.append(outage)
        return outage

    def _withdraw(self, subject: str, outage: _Outage) -> None:
        """Take back what turned out to be something else."""
        del outage.down[subject]
        outage.subjects.remove(subject)
        if not outage.subjects:
            self._outages.remove(outage)
        elif not outage.down:
            outage.well_since = self._clock()

    def _tell(self) -> None:
        now = self._clock()
        for outage in self._outages:
            if not outage.is_reported:
                continue
            outage.is_reported = False
            reasons = " ".join(dict.fromkeys(map(_sentence, outage.down.values())))
            names, extra = _names(outage.down), {"action": "trouble"}
            if outage.logged is None:
                self._log.log(outage.level, "%s: %s Trying again until it works.", names, reasons, extra=extra)
            elif outage.down and now - outage.logged >= REMINDER_SECONDS:
                verb = "is" if len(outage.down) == 1 else "are"
                seconds = now - outage.began
                self._log.log(
                    outage.level, "%s %s still unavailable after %.0f s: %s", names, verb, seconds, reasons, extra=extra
                )
            else:
                continue
            outage.logged = now


def _names(subjects: Iterable[str]) -> str:
    """All in one, as a sentence begins with it."""
    topics = [subject.removeprefix(_TOPIC) for subject in subjects if subject.startswith(_TOPIC)]
    others = [subject for subject in subjects if not subject.startswith(_TOPIC)]
    if topics:
        others = [subject[0].lower() + subject[1:] for subject in others]
        others.insert(0, f"Topic{'s' if len(topics) > 1 else ''} {', '.join(topics)}")
    return " and ".join(others)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
