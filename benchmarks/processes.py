"""Jobs in processes of their own: start, wait until ready, go, result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.processes import ROOT
from tests.support.servers.process import spawn, stop

SETTINGS = "benchmarks.settings"


class JobFailed(RuntimeError):
    """A job ended without its result; the message is what it printed."""


class Command:
    """A Django command that runs until the block ends; an error in the block shows what it printed."""

    def __init__(self, name: str, env: Mapping[str, str]) -> None:
        self.name = name
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed at the end of the block)
        self._process = spawn(
            [sys.executable, "-m", "django", name],
            env={**os.environ, **env, "DJANGO_SETTINGS_MODULE": SETTINGS},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stop(self._process)
        if error is not None:
            self._output.seek(0)
            error.add_note(f"{self.name} printed:\n{self._output.read()[-4000:]}")
        self._output.close()


class Job:
    """A process that runs one function of ``benchmarks.jobs``, or what another module has by that name."""

    def __init__(
        self,
        name: str,
        env: Mapping[str, str],
        *,
        python: str | Path = sys.executable,
        module: str = "benchmarks.jobs",
        **arguments: Any,
    ) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed at the end of the block)
        self._process = spawn(
            [python, "-m", module, name, json.dumps(arguments)],
            env={**os.environ, "DJANGO_SETTINGS_MODULE": SETTINGS, **env},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def wait_until_ready(self) -> None:
        self._read("ready")

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = self._read("result")
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stop(self._process)
        self._errors.close()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _read(self, key: str) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        try:
            return json.loads(line)[key]
        except (ValueError, KeyError):
            self._errors.seek(0)
            raise JobFailed(f"{self.name}: {line}{self._errors.read()[-4000:]}") from None
