"""What an examination comes to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Level(IntEnum):
    """How bad it is."""

    OK = 0
    NOTE = 1
    """To know, and perhaps wanted."""
    WARNING = 2
    """It works, but will do so badly, or not for long."""
    FAULT = 3
    """Something does not work."""

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Finding:
    """One thing that an examination found.

    Attributes:
        level: how bad it is.
        summary: what is the matter, in one sentence.
        why: what comes of it.
        remedy: the command or the setting that mends it.
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
