"""Run commands side by side and show the output of each in one piece.

Usage: python .ci/side_by_side.py 'NAME: COMMAND' ...

The tests spend most of their time waiting for brokers and processes, so several runs at once take little longer than
one. The first command's output is shown as it comes, that of the others when they have ended. Exits with 1 if any
command failed; ends all of them when it is itself interrupted.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import tempfile
import time
from typing import IO

POLL = 0.2


class Part:
    """One of the commands."""

    def __init__(self, text: str, *, live: bool) -> None:
        self.name, _, command = text.partition(":")
        self.output: IO[bytes] | None = None if live else tempfile.TemporaryFile()  # noqa: SIM115
        self.started = time.monotonic()
        self.seconds = 0.0
        self.process = subprocess.Popen(
            shlex.split(command), stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.output and subprocess.STDOUT
        )

    def ended(self) -> bool:
        if self.process.poll() is None:
            return False
        self.seconds = self.seconds or time.monotonic() - self.started
        return True

    def result(self) -> str:
        outcome = "passed" if self.process.returncode == 0 else f"FAILED (exit code {self.process.returncode})"
        return f"{self.name}: {outcome} in {self.seconds:.0f} s"


def say(text: str) -> None:
    print(f"\n=== {text}", flush=True)


def show(part: Part) -> None:
    """Print what a part wrote while another was on the screen."""
    if part.output is not None:
        say(part.name)
        part.output.seek(0)
        for line in part.output:
            sys.stdout.buffer.write(line)
        sys.stdout.flush()


def run(texts: list[str]) -> int:
    say(f"side by side, with the output of the first: {', '.join(text.partition(':')[0] for text in texts)}")
    parts: list[Part] = []
    try:
        for text in texts:
            parts.append(Part(text, live=not parts))
        unseen = list(parts)
        while unseen:
            for part in [part for part in unseen if part.ended() and parts[0].ended()]:
                show(part)
                unseen.remove(part)
                if unseen:
                    say(f"{part.result()}; still running: {', '.join(part.name for part in unseen)}")
            time.sleep(POLL)
    finally:
        for part in parts:
            if not part.ended():
                part.process.send_signal(signal.SIGINT)
        for part in parts:
            part.process.wait()
    say("all parts")
    for part in parts:
        print(part.result())
    return int(any(part.process.returncode for part in parts))


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)
    try:
        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
