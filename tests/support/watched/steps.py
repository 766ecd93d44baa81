"""Steps of a watched process: its calls of database and broker, each named for the function that makes it.

The name is derived, never written down: a call that the package makes at a new place is a step with a new name.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import django_outbox

PACKAGE = f"{Path(django_outbox.__file__).parent}{os.sep}"
HANDLERS = str(Path(__file__).with_name("handlers.py"))
HANDLER = "handler"
"""Who makes the calls of a project's handlers."""

BEFORE, AFTER = "before", "after"

# Functions that make calls for others, which name the step.
PLUMBING = re.compile(
    r"models\.|brokers\.|worker\.transactions\.|state\.dialects\.postgresql\.PostgreSQL\._(fetch|execute|unsent)$"
)
TABLE = re.compile(r'(?:FROM|INTO|UPDATE)\s+"?(?:django_outbox_)?(\w+)', re.IGNORECASE)
WITHOUT_TABLE = re.compile(r"(SAVEPOINT|RELEASE SAVEPOINT|ROLLBACK TO SAVEPOINT|LISTEN|NOTIFY|DISCARD PLANS)\b")


class Watch:
    """What to do at each step: write it down, and die at one."""

    def __init__(self) -> None:
        self._file: int | None = None
        self._end: tuple[str, str] | None = None
        self._seen: set[tuple[str, str]] = set()
        self._places: dict[str, list[tuple[int, ...]]] = {}
        self._lock = threading.Lock()
        self._inner = threading.local()

    def begin(self, path: str, end: tuple[str, str] | None) -> None:
        """Write each side of each step to a file when it is first passed, and die at one of them."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._end = end

    @contextmanager
    def passing(self, name: str) -> Iterator[None]:
        """A step. Calls within it are parts of it."""
        if self._file is None or getattr(self._inner, "is_in_step", False):
            yield
            return
        self._inner.is_in_step = True
        try:
            self.point(BEFORE, name)
            yield
            self.point(AFTER, name)
        finally:
            self._inner.is_in_step = False

    def name(self, call: str) -> str:
        """The name of a step. Of several such calls in one function, the second that is passed is numbered 2."""
        name, place = _caller()
        name = f"{name}: {call}"
        with self._lock:
            places = self._places.setdefault(name, [])
            if place not in places:
                places.append(place)
            number = places.index(place) + 1
        return name if number == 1 else f"{name} ({number})"

    def point(self, side: str, name: str) -> None:
        if self._file is None:
            return
        with self._lock:
            if (side, name) in self._seen:
                return
            self._seen.add((side, name))
            os.write(self._file, f"{side} {name}\n".encode())
            if (side, name) == self._end:
                os.kill(os.getpid(), signal.SIGKILL)


watch = Watch()


def _caller() -> tuple[str, tuple[int, ...]]:
    """The function of the package that makes the current call and, if that is another, the one of ``state/``; their lines."""
    names: list[str] = []
    lines: list[int] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code, line, frame = frame.f_code, frame.f_lineno, frame.f_back
        if code.co_filename == HANDLERS and not names:
            return HANDLER, (line,)
        if not code.co_filename.startswith(PACKAGE) or code.co_name.startswith("<"):
            continue
        module = code.co_filename.removeprefix(PACKAGE).removesuffix(".py").replace(os.sep, ".")
        name = f"{module}.{code.co_qualname.replace('<locals>.', '')}"
        if PLUMBING.match(name):
            continue
        is_of_state = module.startswith("state.")
        if not is_of_state or not names:
            names.append(name)
            lines.append(line)
        if not is_of_state:
            break
    return " > ".join(reversed(names)), tuple(lines)


def statement_of(sql: str) -> str:
    """The verb and the table of a statement."""
    text = sql.lstrip(" (\n")
    if plain := WITHOUT_TABLE.match(text):
        return plain[1]
    verb, table = text.split(None, 1)[0].upper(), TABLE.search(text)
    if verb in ("SELECT", "WITH"):
        verb = "SELECT FOR UPDATE" if "FOR UPDATE" in text else "SELECT"
    return f"{verb} {table[1]}" if table else verb
