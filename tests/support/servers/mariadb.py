"""MariaDB from the system's own package (Debian: mariadb-server-core), in a private directory."""

from __future__ import annotations

import getpass
import os
import shutil
from pathlib import Path

import pymysql

from tests.support.servers.base import Service, ServiceError

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


class MariaDB(Service):
    """A server in a temporary directory, user `root`, no password; the system's own server is left alone."""

    name = "mariadb"
    start_timeout = 60.0

    @property
    def url(self) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/outbox"

    def prepare(self) -> None:
        self.run(
            [
                _find("mariadb-install-db"),
                "--no-defaults",
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
            _find("mariadbd"),
            "--no-defaults",
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

    def probe(self) -> None:
        self._ask("SELECT 1")

    def version(self) -> str:
        return f"MariaDB {self._ask('SELECT VERSION()')}"

    def _ask(self, query: str) -> str:
        connection = pymysql.connect(host="127.0.0.1", port=self.port, user="root", connect_timeout=2)
        with connection, connection.cursor() as cursor:
            cursor.execute(query)
            row = cursor.fetchone()
        assert row is not None
        return str(row[0])
