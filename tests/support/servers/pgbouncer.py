"""PgBouncer in transaction mode, from the system's own package (Debian: pgbouncer), in a private directory."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.support.servers.base import Service, ServiceError

SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])


class PgBouncer(Service):
    """Lends the sessions of a PostgreSQL of this machine, for one transaction at a time."""

    name = "pgbouncer"

    def __init__(self, target: int) -> None:
        """
        Args:
            target: the port of PostgreSQL.
        """
        super().__init__()
        self._target = target

    @property
    def url(self) -> str:
        return f"postgres://postgres@127.0.0.1:{self.port}/postgres"

    def prepare(self) -> None:
        self.directory.chmod(0o755)
        (self.directory / "users.txt").write_text('"postgres" ""\n')

    def command(self) -> list[str | Path]:
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": self.directory / "users.txt",
            "pool_mode": "transaction",
            "stats_users": "postgres",
        }
        lines = [f"{name} = {value}" for name, value in settings.items()]
        path = self.directory / "pgbouncer.ini"
        path.write_text(f"[databases]\n* = host=127.0.0.1 port={self._target}\n[pgbouncer]\n" + "\n".join(lines) + "\n")
        return [self._program(), path]

    def spawn_options(self) -> Mapping[str, Any]:
        if os.geteuid() != 0:
            return {}
        nobody = pwd.getpwnam("nobody")  # it refuses to run as root
        return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}

    def probe(self) -> None:
        with psycopg.connect(self.url, connect_timeout=2, prepare_threshold=None) as connection:
            connection.execute("SELECT 1")

    def transactions(self) -> int:
        """How many transactions it has passed on, without those of its own probe."""
        console = f"{self.url.rpartition('/')[0]}/pgbouncer"
        with psycopg.connect(console, autocommit=True, prepare_threshold=None, row_factory=dict_row) as connection:
            rows = connection.execute("SHOW STATS").fetchall()
        return sum(row["total_xact_count"] for row in rows if row["database"] not in ("pgbouncer", "postgres"))

    def version(self) -> str:
        return self.run([self._program(), "--version"]).splitlines()[0]

    def _program(self) -> str:
        found = shutil.which("pgbouncer", path=SEARCH_PATH)
        if found is None:
            raise ServiceError("pgbouncer is not installed (Debian, Ubuntu: apt-get install pgbouncer)")
        return found
