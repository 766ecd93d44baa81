"""Wall clocks that can be stepped, each for one process and its children."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
TRIED_STEP = 86_400


class Clock:
    """The wall clock of processes that run with ``env``."""

    def __init__(self, library: Path, file: Path) -> None:
        """
        Args:
            library: what ``build`` returned.
            file: by how much the clock is off; it is written.
        """
        self._file = file
        self.env = {"LD_PRELOAD": str(library), "CLOCK_STEP_FILE": str(file)}
        file.write_bytes(bytes(8))

    def step(self, seconds: float) -> None:
        """Set the clock this far from the true time, to the second."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("=q", round(seconds)))


def build(folder: Path) -> Path:
    """Compile what such clocks need, into ``folder``.

    Raises:
        OSError: there is no C compiler.
        subprocess.CalledProcessError: it cannot compile this.
    """
    library = folder / "clock.so"
    command = [shutil.which("cc") or "cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def works() -> bool:
    """True if clocks can be stepped here: there is a C compiler with its headers, and glibc."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            clock = Clock(build(folder), folder / "clock")
            clock.step(TRIED_STEP)
            command = [sys.executable, "-I", "-S", "-c", "import time; print(time.time())"]
            shown = float(subprocess.run(command, env=clock.env, check=True, capture_output=True).stdout)
        except (OSError, ValueError, subprocess.CalledProcessError):
            return False
        return shown > time.time() + TRIED_STEP / 2
