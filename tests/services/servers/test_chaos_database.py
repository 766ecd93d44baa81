"""PostgreSQL of the chaos runs: however a run ends, no suspended process of it stays behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.chaos.database import Server
from tests.support.processes import ROOT, wait_until

SUSPEND_AND_DIE = """
import os, signal
from tests.chaos.database import Server
server = Server().start()
server.suspend()
print(server.directory, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def processes_in(directory: Path) -> list[str]:
    """The processes whose working directory is in a directory, even if that is gone."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str((process / "cwd").readlink()).startswith(str(directory)):
                found.append(process.name)
        except OSError:
            continue  # it has ended
    return found


def test_suspended_server_resumes() -> None:
    with Server() as server:
        server.suspend()
        server.resume()
        assert server.query("SELECT 1") == [(1,)]


def test_suspended_server_is_killed_and_starts_again() -> None:
    with Server() as server:
        server.suspend()
        server.kill()
        server.start()
        assert server.query("SELECT 1") == [(1,)]


def test_suspended_server_closes() -> None:
    with Server() as server:
        directory = server.directory
        server.suspend()
    wait_until(lambda: not processes_in(directory), what="the end of the server")


def test_suspended_server_ends_with_a_killed_run() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SUSPEND_AND_DIE], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    directory = Path(done.stdout.strip())
    assert directory.is_absolute()
    wait_until(lambda: not processes_in(directory), what="the end of the server")
