"""PostgreSQL with a synchronous standby, behind a link that follows a failover."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from tests.support.brokers.proxy import Proxy
from tests.support.processes import wait_until
from tests.support.servers.postgres import PostgreSQL
from tests.support.servers.process import forget, stop, watch

DEADLINE = 300.0
CONNECT_SECONDS = 30
PROMOTE_SECONDS = 300


class Server(PostgreSQL):
    """A server that can be primary or standby, and be suspended with all of its processes."""

    start_timeout = 120.0
    end_timeout = 120.0

    def __init__(self) -> None:
        super().__init__()
        self._suspended: list[int] = []

    def command(self) -> list[str | Path]:
        # A standby that was away for a while must find what it missed.
        return [*super().command(), "--wal_keep_size=2GB", "--wal_retrieve_retry_interval=500ms"]

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, connect_timeout=CONNECT_SECONDS, autocommit=True) as connection:
            return connection.execute(sql, parameters).fetchall()

    def execute(self, sql: str) -> None:
        with psycopg.connect(self.url, connect_timeout=CONNECT_SECONDS, autocommit=True) as connection:
            connection.execute(sql)

    def restart(self) -> None:
        """Restart without an orderly end, as ``pg_ctl restart --mode immediate`` does."""
        if self.process is not None:
            stop(self.process, stop_signal=signal.SIGQUIT)
        self.stop()
        self.start()

    def suspend(self) -> None:
        super().suspend()
        for child in self._children():
            # Each is a group of its own, which would sleep on when the main process is gone.
            watch(child)
            self._suspended.append(child)
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGSTOP)

    def resume(self) -> None:
        self._wake_children()
        super().resume()

    def stop(self) -> None:
        self._wake_children()
        super().stop()

    def _wake_children(self) -> None:
        while self._suspended:
            child = self._suspended.pop()
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGCONT)
            forget(child)

    def _children(self) -> list[int]:
        """The processes of sessions and of the server's own work."""
        found = []
        for directory in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, IndexError, ValueError):
                parent = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self._running().pid:
                    found.append(int(directory.name))
        return found


class Standby(Server):
    """A copy of a primary that replicates from it."""

    name = "postgresql-standby"

    def __init__(self, primary: Server) -> None:
        super().__init__()
        self._primary = primary

    def prepare(self) -> None:
        super().prepare()  # prepares the server's user as well
        data = self.directory / "data"
        for path in data.iterdir():
            self.run(["rm", "-rf", path])
        source = f"--dbname=host=127.0.0.1 port={self._primary.port} user=postgres"
        options = ["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"]
        command: list[str | Path] = [self._bin / "pg_basebackup", source, f"--pgdata={data}", *options]
        self.run(command, cwd=self.directory, **self._spawn_options)

    def promote(self) -> None:
        """Make this the primary.

        Raises:
            TimeoutError: it has not ended recovery in time.
        """
        if self.query("SELECT pg_promote(true, %s)", PROMOTE_SECONDS) != [(True,)]:
            raise TimeoutError(f"pg_promote() did not end within {PROMOTE_SECONDS} s")


class Database:
    """A primary and its standby. Clients reach the primary through ``link``."""

    def __init__(self) -> None:
        self.link = Proxy()
        self.primary = Server()
        self.standby: Standby | None = None

    @property
    def url(self) -> str:
        """Through the link."""
        return f"postgres://postgres@127.0.0.1:{self.link.port}/postgres"

    def fail_over(self) -> None:
        """Kill the primary, promote the standby, and make a new standby."""
        standby = self.standby
        if standby is None:
            raise RuntimeError("there is no standby")
        self._await_standby()
        self.primary.kill()
        standby.promote()
        old, self.primary, self.standby = self.primary, standby, None
        self.link.target = standby.port
        self.link.cut()
        old.close()
        self._add_standby()

    def _add_standby(self) -> None:
        self.primary.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        self.primary.execute("SELECT pg_reload_conf()")
        self.standby = Standby(self.primary)
        self.standby.start()
        self.primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.primary.execute("SELECT pg_reload_conf()")
        self._await_standby()

    def _await_standby(self) -> None:
        """Wait until the standby is synchronous, and has all that the primary shows."""
        ((reached,),) = self.primary.query("SELECT pg_current_wal_lsn()::text")
        query = "SELECT FROM pg_stat_replication WHERE sync_state = 'sync' AND flush_lsn >= %s::pg_lsn"
        wait_until(lambda: self.primary.query(query, reached), DEADLINE, what="the standby is synchronous")

    def __enter__(self) -> Self:
        try:
            self.primary.start()
            self.link.target = self.primary.port
            self._add_standby()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        with ExitStack() as stack:
            for server in filter(None, (self.primary, self.standby)):
                stack.callback(server.close)
            stack.callback(self.link.close)
