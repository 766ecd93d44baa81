"""The folder that holds everything a demo run writes."""

import fcntl
import os
import shutil
from pathlib import Path

from .errors import DemoFailed

LOCK_NAME = "demo.lock"


class StateDir:
    """A folder for this run alone; files of an earlier run are deleted."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.shown = shown_path(self.path)
        self.logs = self.path / "logs"
        self.mails = self.path / "mails"
        self.database = self.path / "shop.sqlite3"
        self.warehouse_database = self.path / "warehouse.sqlite3"
        self.environment = self.path / "env"  # the settings of this run, for a shell in another terminal
        self.path.mkdir(parents=True, exist_ok=True)
        if any(self.path.iterdir()) and not (self.path / LOCK_NAME).exists():
            raise DemoFailed(
                f"{self.path} is not empty and does not come from an earlier demo. Use another --state-dir."
            )
        self._lock = self._acquire()
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != LOCK_NAME:
                entry.unlink()
        self.logs.mkdir()
        self.mails.mkdir()

    def release(self) -> None:
        """Unlock the folder for another demo. The end of this process unlocks it, too."""
        os.close(self._lock)

    def _acquire(self) -> int:
        lock = os.open(self.path / LOCK_NAME, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise DemoFailed(f"Another demo is running in {self.path}. Stop it first.") from None
        return lock


def shown_path(path: Path) -> str:
    """The path as typed in the current directory."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
