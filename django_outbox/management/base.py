"""The base of all commands, their logging and their audit log."""

from __future__ import annotations

import getpass
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, Error, connections
from django.db.migrations.executor import MigrationExecutor

from django_outbox.exceptions import OutboxError, in_one_line
from django_outbox.models import outbox_database
from django_outbox.observability.logging import lane_of
from django_outbox.state.failures import host
from django_outbox.worker.database_errors import is_permission_denied, is_read_only_error, is_unavailable
from django_outbox.worker.pooling import prepare_nothing

log = logging.getLogger("django_outbox.operations")

LEVELS = {0: logging.ERROR, 1: logging.INFO, 2: logging.DEBUG, 3: logging.DEBUG}
CLIENT_LOGGERS = ("confluent_kafka", "kafka")


class OutboxCommand(BaseCommand):
    """A command on the outbox of one database, with readable errors."""

    prepares_statements = False
    """Only workers benefit, and only they detect a pooler that breaks prepared statements."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--database",
            default=outbox_database(),
            choices=tuple(connections),
            help="Alias of the database with the outbox (default, by DATABASE_ROUTERS: %(default)s).",
        )

    def execute(self, *args: Any, **options: Any) -> str | None:
        alias = options["database"]
        if alias not in connections:  # argparse does not check defaults
            raise CommandError(f"DATABASE_ROUTERS route the outbox to {alias!r}, which is not in DATABASES.")
        try:
            return super().execute(*args, **options)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        except OutboxError as error:
            raise CommandError(in_one_line(error)) from error
        except Error as error:
            if is_read_only_error(error):
                trouble, remedy = "is read-only", f'Check that DATABASES["{alias}"] is the primary server.'
            elif is_unavailable(error):
                trouble = "does not answer"
                remedy = f'Check that it is running and that DATABASES["{alias}"] is correct.'
            elif is_permission_denied(error):
                trouble = "denies this role permission"
                remedy = "GRANT it the tables of the outbox and SELECT on django_migrations."
            else:
                raise
            raise CommandError(f"The database {alias!r} {trouble} ({in_one_line(error)}). {remedy}") from error

    def require_tables(self, using: str) -> None:
        """Raise ``CommandError`` if migrations of the outbox have not been applied."""
        if not self.prepares_statements:
            prepare_nothing(connections[using])
        executor = MigrationExecutor(connections[using])
        if executor.migration_plan(executor.loader.graph.leaf_nodes("django_outbox")):
            database = "" if using == DEFAULT_DB_ALIAS else f" --database {using}"
            raise CommandError(
                f"The tables of the outbox are missing or out of date. Run: manage.py migrate django_outbox{database}"
            )


def record(action: str, text: str) -> None:
    """Log what the operating system's user begins or has done: Django's admin log needs a user account."""
    user = _user()
    log.info("%s: %s", user, text, extra={"action": action, "user": user})


def operator() -> str:
    """The operating system's user and the host, to store with what they did."""
    return f"{_user()}@{host()}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name, as in many containers
        return "unknown user"


@contextmanager
def logging_to(stream: Any, verbosity: int) -> Iterator[None]:
    """Set the log level by ``--verbosity``, and show the log if the project configured no handler.

    A level that the project set for ``django_outbox`` stays at the default verbosity. The client libraries repeat each
    fault every few milliseconds: they are silent below ``--verbosity 3``, unless the project set their level.
    """
    outbox = logging.getLogger("django_outbox")
    clients = [logging.getLogger(name) for name in CLIENT_LOGGERS]
    levels: dict[logging.Logger, int] = {}
    if verbosity != 1 or outbox.level == logging.NOTSET:
        levels[outbox] = LEVELS[verbosity]
    if verbosity < 3:
        levels |= {client: logging.CRITICAL + 1 for client in clients if client.level == logging.NOTSET}
    before = {logger: logger.level for logger in levels}
    shown = [] if outbox.hasHandlers() else [outbox, *clients] if verbosity == 3 else [outbox]
    handler: logging.Handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(in_lane)s%(message)s"))
    handler.addFilter(_name_lane)
    for logger in shown:
        logger.addHandler(handler)
    for logger, level in levels.items():
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)
        for logger in shown:
            logger.removeHandler(handler)


def _name_lane(record: logging.LogRecord) -> bool:
    lane = lane_of(record.threadName)
    record.in_lane = f"lane {lane}: " if lane else ""
    return True
