"""Write to the terminal: paragraphs, and below them a table of orders that is redrawn in place.

Without a terminal, or in one too small for the table, each change is printed as a line.
"""

import io
import os
import shutil
import textwrap
import time
from collections.abc import Iterable, Sequence
from typing import TextIO

from . import table
from .shop import Order

MIN_HEIGHT = 16
MAX_WIDTH = 92


class Screen:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._size = shutil.get_terminal_size()
        terminal = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._colour = terminal and not os.environ.get("NO_COLOR")
        self._redraws = terminal and self._size.columns > table.WIDTH and self._size.lines >= MIN_HEIGHT
        self._started = time.monotonic()
        self._seen: list[Order] = []
        self._below: list[Order] = []
        self._drawn: list[str] = []

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._started

    def heading(self, text: str) -> None:
        self._write(["", f"\x1b[1m{text}\x1b[0m" if self._colour else text])

    def say(self, text: str) -> None:
        """A paragraph, wrapped."""
        width = min(self._size.columns, MAX_WIDTH)
        self._write([line for part in text.splitlines() for line in textwrap.wrap(part, width)])

    def lines(self, *lines: str) -> None:
        """Lines that must not be wrapped, such as commands."""
        self._write([f"    {line}" for line in lines])

    def details(self, lines: Iterable[str]) -> None:
        """Lines that are left out if the table shows the same."""
        if not self._redraws:
            self.lines(*lines)

    def problem(self, text: str) -> None:
        self._write(["", *text.splitlines()])

    def show(self, orders: Sequence[Order]) -> None:
        """Update the table, or print the changes."""
        changes = table.changes(self._seen, orders)
        self._seen = list(orders)
        if self._redraws:
            self._below = self._seen
            self._write([])
        else:
            self._write([f"  {self.elapsed:5.1f} s  {line}" for line in changes])

    def finish_table(self) -> None:
        """Leave the table in place and write below it from now on."""
        self._drawn = []
        self._below = []

    def _write(self, lines: list[str]) -> None:
        """Put the lines above the table."""
        drawing = self._drawing()
        if not lines and drawing == self._drawn:
            return
        erase = f"\x1b[{len(self._drawn)}F\x1b[J" if self._drawn else ""
        text = "".join(f"{line}\n" for line in [*lines, *drawing])
        self._drawn = drawing
        try:
            self._stream.write(erase + text)
            self._stream.flush()
        except OSError:
            # The reader is gone: continue without output, so that the demo ends and cleans up.
            self._stream = io.StringIO()

    def _drawing(self) -> list[str]:
        if not self._below:
            return []
        width, height = self._size
        lines = table.table(self._below, width=width, height=height - 2, colour=self._colour)
        return ["", *lines]
