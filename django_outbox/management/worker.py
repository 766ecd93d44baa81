"""What the long-running commands share."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, Error, connections
from django.db.migrations.executor import MigrationExecutor

from django_outbox.brokers.base import Broker
from django_outbox.conf import settings
from django_outbox.exceptions import OutboxError, in_one_line
from django_outbox.handlers.registry import GroupHandlers
from django_outbox.management import monitored
from django_outbox.management.reload import CodeWatch, start_anew
from django_outbox.models import outbox_database
from django_outbox.worker.database_errors import UNAVAILABLE, is_permission_denied, is_read_only_error, is_unavailable
from django_outbox.worker.heartbeat import beating
from django_outbox.worker.loop import calm_collector, run_through_faults
from django_outbox.worker.pooling import prepare_nothing
from django_outbox.worker.state import WorkerState
from django_outbox.worker.stop import Stop, stop_on_signals

LEVELS = {0: logging.ERROR, 1: logging.INFO, 2: logging.DEBUG, 3: logging.DEBUG}
CLIENT_LOGGERS = ("confluent_kafka", "kafka")


class OutboxCommand(BaseCommand):
    """A command on the outbox of one database, whose errors are sentences."""

    prepares_statements = False
    """Only workers gain by it, and only they notice a pooler behind which it fails."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--database",
            default=outbox_database(),
            choices=tuple(connections),
            help="Alias of the database with the outbox (default: where DATABASE_ROUTERS write it, %(default)s).",
        )

    def execute(self, *args: Any, **options: Any) -> str | None:
        alias = options["database"]
        if alias not in connections:  # argparse does not compare a default with the choices
            raise CommandError(f"DATABASE_ROUTERS send the outbox to {alias!r}, which is not in DATABASES.")
        try:
            return super().execute(*args, **options)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        except OutboxError as error:
            raise CommandError(in_one_line(error)) from error
        except Error as error:
            if is_read_only_error(error):
                raise CommandError(
                    f"The database {alias!r} takes no writes ({in_one_line(error)}): is "
                    f'DATABASES["{alias}"] the primary server?'
                ) from error
            if is_unavailable(error):
                raise CommandError(
                    f"The database {alias!r} does not answer ({in_one_line(error)}): is it there, and is "
                    f'DATABASES["{alias}"] right?'
                ) from error
            if not is_permission_denied(error):
                raise
            raise CommandError(
                f"The database {alias!r} refuses this role ({in_one_line(error)}): GRANT it the tables of the outbox and "
                f"SELECT on django_migrations."
            ) from error

    def require_tables(self, using: str) -> None:
        """Raise ``CommandError`` if migrations of the outbox have not been applied."""
        if not self.prepares_statements:
            prepare_nothing(connections[using])
        executor = MigrationExecutor(connections[using])
        targets = [node for node in executor.loader.graph.leaf_nodes() if node[0] == "django_outbox"]
        if executor.migration_plan(targets):
            database = "" if using == DEFAULT_DB_ALIAS else f" --database {using}"
            raise CommandError(
                f"The tables of the outbox are not there or not up to date. Run: manage.py migrate "
                f"django_outbox{database}"
            )


class WorkerCommand(OutboxCommand):
    """A command that works until a signal ends it."""

    prepares_statements = True
    logger: logging.Logger
    title = "Worker"
    trial = "--help"
    """An option with which the command loads the project's code and ends, for ``--reload``."""

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--drain",
            action="store_true",
            help="End when nothing is left to do now, instead of waiting for more.",
        )
        parser.add_argument(
            "--reload",
            action="store_true",
            help="Start anew when the project's code changes, once the work in hand is finished. For development.",
        )
        monitored.add_arguments(parser, at_least)

    _unchecked: Callable[[], Any] | None = None

    def check(self, *args: Any, **options: Any) -> Any:
        """Some of Django's checks ask a MySQL server for its version: if it is away, they are made once it is back."""
        try:
            super().check(*args, **options)
        except UNAVAILABLE:
            self._unchecked = partial(super().check, *args, **options)

    def _require_database(self, using: str) -> None:
        if self._unchecked is not None:
            self._unchecked()
        self.require_tables(using)

    @contextmanager
    def working(
        self,
        broker: Broker,
        verbosity: int,
        worker_state: WorkerState,
        *,
        using: str,
        drain: bool,
        reload: bool = False,
        options: Mapping[str, Any] = MappingProxyType({}),
        rest: float = 0.0,
        handlers: GroupHandlers | None = None,
    ) -> Iterator[Stop]:
        """Logs set up, signals caught, also while the broker is waited for, heart beating; logs the end, after all else.

        A database that is away is waited for, with ``drain`` as long as ``PUBLISH_TIMEOUT``, before the block is entered.

        ``options``, ``rest`` and ``handlers`` are for ``monitored``, which watches from the outside.

        With ``reload`` it does not return if the code has changed meanwhile, but starts anew.
        """
        # On a terminal Django writes to stderr in red, but a log is not an error.
        style = self.stderr.style_func
        self.stderr.style_func = None
        try:
            with logging_to(self.stderr, verbosity):
                with (
                    monitored.monitored(worker_state, options, using=using, rest=rest, handlers=handlers),
                    stop_on_signals(self.logger, worker_state.set_stopping) as stop,
                ):
                    run_through_faults(
                        stop,
                        lambda: self._require_database(using),
                        log=self.logger,
                        using=using,
                        patience=settings.publish_timeout if drain else None,
                        on_fault=worker_state.record_fault,
                    )
                    with beating(worker_state, using=using, has_row=not drain):
                        if getattr(self, "_called_from_command_line", False):  # not in a test's own process
                            calm_collector()
                        watch = CodeWatch(stop, self.logger, self.trial) if reload else None
                        broker.interrupted = lambda: stop.requested
                        yield stop
                self.logger.info("%s ended.", self.title, extra={"action": "ended"})
                if watch is not None and watch.changed:
                    start_anew()
        finally:
            self.stderr.style_func = style


@contextmanager
def logging_to(stream: Any, verbosity: int) -> Iterator[None]:
    """Let ``--verbosity`` set the level, and show the log if the project has not said where to.

    A level that the project itself gave to ``django_outbox`` stays, unless another verbosity than
    the usual is asked for.

    The client libraries repeat each fault every few milliseconds and know nothing of what it
    means here: they are quiet below ``--verbosity 3``, unless the project gave them a level.
    """
    outbox = logging.getLogger("django_outbox")
    clients = [logging.getLogger(name) for name in CLIENT_LOGGERS]
    changed = []
    if verbosity != 1 or outbox.level == logging.NOTSET:
        changed.append((outbox, LEVELS[verbosity]))
    if verbosity < 3:
        changed += [(client, logging.CRITICAL + 1) for client in clients if client.level == logging.NOTSET]
    levels = [(logger, logger.level) for logger, _ in changed]
    shown: list[logging.Logger] = []
    handler: logging.Handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    if not outbox.hasHandlers():
        shown = [outbox, *clients] if verbosity == 3 else [outbox]
    for logger in shown:
        logger.addHandler(handler)
    for logger, level in changed:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, level in levels:
            logger.setLevel(level)
        for logger in shown:
            logger.removeHandler(handler)


def at_least(least: float, kind: Callable[[str], Any] = int, *, most: float = 2**31 - 1) -> Callable[[str], Any]:
    """An argparse type: a number from ``least`` to ``most``."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not value >= least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least:g}")
        if value > most:
            raise argparse.ArgumentTypeError(f"{text!r} is too large; {most:.15g} is the most")
        return value

    return parse
