"""What a check of the doctor reports."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Level(IntEnum):
    """The severity of a finding."""

    OK = 0
    NOTE = 1
    """Good to know, and perhaps intended."""
    WARNING = 2
    """It works, but badly or not for long."""
    FAULT = 3
    """Something does not work."""

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Finding:
    """One problem.

    Attributes:
        summary: the problem, in one sentence.
        why: its consequence or cause.
        remedy: the command or setting that fixes it.
    """

    level: Level
    summary: str
    why: str = ""
    remedy: str = ""


def note(summary: str, why: str = "", remedy: str = "") -> Finding:
    return Finding(Level.NOTE, summary, why, remedy)


def warning(summary: str, why: str = "", remedy: str = "") -> Finding:
    return Finding(Level.WARNING, summary, why, remedy)


def fault(summary: str, why: str = "", remedy: str = "") -> Finding:
    return Finding(Level.FAULT, summary, why, remedy)
