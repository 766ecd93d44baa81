"""Shows the progress of long work: a bar on a terminal, otherwise a line every ten seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

WIDTH = 30
REDRAW_SECONDS = 0.1
LINE_SECONDS = 10.0


class Progress:
    """Progress on a stream, such as stderr. A context manager, which removes the bar at the end."""

    def __init__(self, stream: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._bar = bool(stream.isatty())
        self._clock = clock
        self._shown_at = clock() - (REDRAW_SECONDS if self._bar else 0)
        self._drawn = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._drawn:
            self._write("\r" + " " * self._drawn + "\r")

    def show(self, share: float, text: str) -> None:
        """Show the share that is done, from 0 to 1, and what has been done."""
        now = self._clock()
        if now - self._shown_at < (REDRAW_SECONDS if self._bar else LINE_SECONDS):
            return
        self._shown_at = now
        share = max(0.0, min(share, 1.0))
        if not self._bar:
            self._write(f"{share:4.0%}  {text}\n")
            return
        done = int(share * WIDTH)
        line = f"[{'#' * done}{'.' * (WIDTH - done)}] {share:4.0%}  {text}"
        self._write("\r" + line.ljust(self._drawn))
        self._drawn = len(line)

    def _write(self, text: str) -> None:
        self._stream.write(text, style_func=str, ending="")  # otherwise Django prints it in red
        self._stream.flush()
