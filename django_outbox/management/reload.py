"""``--reload``: start a command anew when the project's code has changed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import NoReturn

from django.db import connections
from django.utils import autoreload

from django_outbox.worker.stop import Stop


class CodeWatch:
    """Asks a worker to stop once the code that it runs has changed and can be loaded.

    Django's reloader, the one of ``runserver``, tells what has changed. Its ``run_with_reloader`` would
    drop the worker in the middle of a message, without leaving its group; here the worker ends as
    on a signal, then :func:`start_anew` replaces the process, which so keeps its number, its
    terminal and its signals. Code that cannot be loaded, as when half of it is saved, changes
    nothing: the worker goes on with the code from before.

    Attributes:
        changed: True if the worker was asked to stop for that reason.
        thread: watches until the process ends.
    """

    def __init__(self, stop: Stop, log: logging.Logger, trial: str) -> None:
        """
        Args:
            stop: requested when it is time to start anew.
            log: told what happens.
            trial: an option that lets the command load the code, do no harm and end.
        """
        self.changed = False
        self._stop = stop
        self._log = log
        self._trial = trial
        self.thread = threading.Thread(target=self._watch, name="outbox-reload", daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        reloader = autoreload.get_reloader()
        notify = reloader.notify_file_changed

        def on_change(path: Path) -> None:
            try:
                notify(path)
            except SystemExit:  # so Django's reloader asks for a restart; templates, for one, need none
                self._on_change(path)

        reloader.notify_file_changed = on_change  # type: ignore[method-assign,assignment]
        reloader.run(threading.main_thread())

    def _on_change(self, path: Path) -> None:
        if self._stop.requested:
            return
        trial = subprocess.run(  # noqa: S603  # this very command
            [*_command(), self._trial], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if trial.returncode:
            self._log.error(
                "%s has changed and cannot be loaded. The code from before goes on; save it again when it is mended:\n%s",
                path,
                trial.stderr.rstrip(),
                extra={"action": "reload"},
            )
        elif not self._stop.requested:
            self._log.info("%s has changed: starting anew.", path, extra={"action": "reload"})
            self.changed = True
            self._stop.request()


def start_anew() -> NoReturn:
    """Replace this process by one that runs the same command with the code as it is now."""
    connections.close_all()
    sys.stdout.flush()
    sys.stderr.flush()
    command = _command()
    os.execv(command[0], command)  # noqa: S606  # this very command


def _command() -> list[str]:
    return [str(argument) for argument in autoreload.get_child_arguments()]
