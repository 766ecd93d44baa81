"""Runs tests in a copy of the sources, with a fault or without, and judges the result."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any, NamedTuple

from tests.mutants.faults import PACKAGE, ROOT, Fault
from tests.mutants.verdict import FILE

TIMEOUT_SECONDS = 180.0
"""For the tests of one fault. Most take a few seconds; the limit only ends a hang."""
BASELINE_SECONDS = 900.0
COPIED = (PACKAGE, "tests", "setup.cfg")
ASSERTIONS = ("AssertionError", "Failed")
"""What ends a test that notices: ``assert``, ``wait_until``, ``pytest.raises`` and ``pytest.fail``."""

Failure = Mapping[str, Any]
"""The first failure of a run, as ``tests.mutants.verdict`` writes it."""


class Verdict(NamedTuple):
    """Whether the tests noticed a fault, and by which test or why not."""

    is_killed: bool
    reason: str


class Result(NamedTuple):
    """How pytest ended; ``code`` is None if it did not in time."""

    code: int | None
    failure: Failure | None
    output: str


def judge(fault: Fault, result: Result) -> Verdict:
    """Decide whether the tests have noticed the fault by what they assert.

    A module that cannot be imported, an error of a fixture or any other exception is not a kill: the tests might fail
    for a reason that has nothing to do with the guarantee.
    """
    if result.code is None:
        return Verdict(fault.hangs, "the tests did not end" if fault.hangs else f"HANGS for {TIMEOUT_SECONDS:g} s")
    if result.code == 0:
        return Verdict(False, "SURVIVED")
    if result.code != 1 or result.failure is None:
        return Verdict(False, f"BROKEN: pytest ended with {result.code}\n{result.output}")
    test, kinds = result.failure["test"], result.failure["kinds"]
    expected = (fault.raises,) if fault.raises else ASSERTIONS
    if result.failure["when"] != "call" or not any(kind in kinds for kind in expected):
        return Verdict(False, f"BROKEN: {kinds[0]} in {result.failure['when']} of {test}, expected {expected[0]}")
    return Verdict(True, test)


class Tree:
    """A copy of the sources in a directory, for one worker."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._process: subprocess.Popen[str] | None = None
        self._is_closed = False
        self._lock = threading.Lock()
        for name in COPIED:
            source, target = ROOT / name, directory / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, target)

    def run_without_fault(self, tests: Sequence[str], database: str) -> Result:
        """Run tests on the sources as they are."""
        return self._run(["--database", database, *tests], BASELINE_SECONDS)

    def run(self, fault: Fault) -> Verdict:
        """Run the tests of a fault with it, and judge the result."""
        path = self.directory / fault.path
        text = path.read_text()
        try:
            changed = fault.apply(text)
        except ValueError as error:
            return Verdict(False, f"OUTDATED: {error}")
        try:
            path.write_text(changed)
            _forget_bytecode(path)
            result = self._run(["-x", "--database", fault.database, *fault.tests], TIMEOUT_SECONDS)
        finally:
            path.write_text(text)
            _forget_bytecode(path)
        return judge(fault, result)

    def close(self) -> None:
        """End what is running, and start nothing more. May be called by any thread."""
        with self._lock:
            self._is_closed = True
            if self._process is not None:
                _kill(self._process)

    def _run(self, arguments: Sequence[str], timeout: float) -> Result:
        verdict = self.directory / "verdict.json"
        verdict.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.mutants.verdict"]
        environment = {**os.environ, FILE: str(verdict), "PYTHONDONTWRITEBYTECODE": ""}
        with self._lock:
            if self._is_closed:
                raise InterruptedError
            process = self._process = subprocess.Popen(
                [*command, *arguments],
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        try:
            output, _ = process.communicate(timeout=timeout)
            code: int | None = process.returncode
        except subprocess.TimeoutExpired:
            _kill(process)
            output, _ = process.communicate()
            code = None
        finally:
            self._process = None
        failure = json.loads(verdict.read_text()) if verdict.exists() else None
        return Result(code, failure, "\n".join(output.splitlines()[-40:]))


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill the tests; the watchdogs of their servers end these."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _forget_bytecode(path: Path) -> None:
    """Delete the bytecode of a file, which Python would use if the file has the same size and second of change."""
    Path(cache_from_source(str(path))).unlink(missing_ok=True)
