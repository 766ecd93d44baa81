"""MySQL from Debian unstable, in a private directory."""

from __future__ import annotations

import getpass
from pathlib import Path

import pymysql

from tests.support.servers.base import Service
from tests.support.servers.debian import command, unpacked


class MySQL(Service):
    """A server in a temporary directory, user `root`, no password."""

    name = "mysql"
    start_timeout = 90.0

    def __init__(self) -> None:
        super().__init__()
        self._root = Path()

    @property
    def url(self) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/outbox"

    def prepare(self) -> None:
        self._root = unpacked("mysql-server-core")
        self.run([*self._server(), "--initialize-insecure"], cwd=self.directory)

    def command(self) -> list[str | Path]:
        return [
            *self._server(),
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            f"--socket={self.directory / 'socket'}",
            "--mysqlx=OFF",
            "--skip-log-bin",
            # Safe against killed processes, which tests do, though not against a power cut, which they cannot.
            "--innodb-flush-log-at-trx-commit=2",
        ]

    def probe(self) -> None:
        self._ask("SELECT 1")

    def version(self) -> str:
        return f"MySQL {self._ask('SELECT VERSION()')}"

    def _server(self) -> list[str | Path]:
        return [
            *command(self._root, "usr/sbin/mysqld"),
            "--no-defaults",
            f"--basedir={self._root / 'usr'}",
            f"--lc-messages-dir={self._root / 'usr/share/mysql'}",
            f"--datadir={self.directory / 'data'}",
            f"--tmpdir={self.directory}",
            "--secure-file-priv=NULL",  # Debian's folder for files of clients is not there
            f"--user={getpass.getuser()}",
        ]

    def _ask(self, query: str) -> str:
        connection = pymysql.connect(host="127.0.0.1", port=self.port, user="root", connect_timeout=2)
        with connection, connection.cursor() as cursor:
            cursor.execute(query)
            row = cursor.fetchone()
        assert row is not None
        return str(row[0])
