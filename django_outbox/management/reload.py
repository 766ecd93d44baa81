"""``--reload``: restarts a command when the project's code has changed."""

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
    """Stops a worker once its code has changed and can be loaded.

    Django's ``run_with_reloader`` would kill the worker in the middle of a message. Here it stops as on a signal, then
    :func:`restart` replaces the process, which keeps its pid, terminal and signals. While the changed code cannot be
    loaded, the worker keeps running the old code.

    ``trial`` is an option with which the command only loads the code.
    """

    def __init__(self, stop: Stop, log: logging.Logger, trial: str) -> None:
        self.changed = False
        """True if the worker was stopped for a restart."""
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
            except SystemExit:  # Django's reloader requests a restart; templates need none
                self._on_change(path)

        reloader.notify_file_changed = on_change  # type: ignore[method-assign,assignment]
        reloader.run(threading.main_thread())

    def _on_change(self, path: Path) -> None:
        if self._stop.requested:
            return
        trial = subprocess.run(  # noqa: S603  # the same command
            [*autoreload.get_child_arguments(), self._trial], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if trial.returncode:
            self._log.error(
                "%s has changed but cannot be loaded. The old code keeps running. Fix it and save again:\n%s",
                path,
                trial.stderr.rstrip(),
                extra={"action": "reload"},
            )
        elif not self._stop.requested:
            self._log.info("%s has changed. Restarting.", path, extra={"action": "reload"})
            self.changed = True
            self._stop.request()


def restart() -> NoReturn:
    """Replace this process by one that runs the same command with the current code."""
    connections.close_all()
    sys.stdout.flush()
    sys.stderr.flush()
    command = autoreload.get_child_arguments()
    os.execv(command[0], command)  # noqa: S606  # the same command
