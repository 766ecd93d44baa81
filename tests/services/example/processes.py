"""Run the example project's demo as a process and see what it leaves behind."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.processes import ROOT, wait_until
from tests.support.servers.process import spawn, stop

EXAMPLE = ROOT / "example_project"

# Runs a command in a terminal of its own and passes on what is typed and printed.
IN_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


class DemoProcess:
    """`demo.py`, with its state in a folder of this test's own."""

    def __init__(self, folder: Path, *, terminal: bool = False) -> None:
        self.state_dir = folder / "state"
        self._output = folder / "output"
        # Any ports: a person's demo, or that of another test run, may have the usual ones.
        command = [sys.executable, str(EXAMPLE / "demo.py"), "--broker-port", "0", "--web-port", "0"]
        command += ["--state-dir", str(self.state_dir)]
        environment: Mapping[str, str] = os.environ
        if terminal:
            command = [sys.executable, "-c", IN_TERMINAL, *command]
            environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
        with self._output.open("wb") as output:
            self.process: subprocess.Popen[Any] = spawn(
                command,
                env=environment,
                cwd=ROOT,
                stdin=subprocess.PIPE if terminal else subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def wait_for(self, pattern: str, seconds: float) -> None:
        """Wait until it has printed this regular expression."""

        def found() -> bool:
            if re.search(pattern, self.output):
                return True
            assert self.process.poll() is None, f"ended without {pattern!r}:\n{self.output}"
            return False

        wait_until(found, seconds, what=f"output like {pattern!r}")

    def wait(self, seconds: float) -> int:
        """Wait until it ends by itself and return its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not within {seconds:g} s: its end:\n{self.output}") from None

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def left_over(self) -> list[str]:
        """The processes of this demo, told by its folder in their arguments or environment."""
        return processes_with(str(self.state_dir))

    def close(self) -> None:
        stop(self.process)
        if self.process.stdin is not None:
            self.process.stdin.close()


def processes_with(text: str) -> list[str]:
    """The processes that have this text in their arguments or in their environment."""
    proc = Path("/proc")
    if not proc.is_dir():
        listing = subprocess.run(["/bin/ps", "-axEww"], capture_output=True, text=True, check=True)
        return [line for line in listing.stdout.splitlines() if text in line]
    found = []
    for entry in proc.glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes()
            if text.encode() in arguments + (entry / "environ").read_bytes():
                found.append(f"{entry.name} {arguments.replace(bytes(1), b' ').decode()}")
        except OSError:  # ended meanwhile
            continue
    return found
