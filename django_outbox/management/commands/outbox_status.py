"""``manage.py outbox_status``: shows the state of outbox and inbox, for people and for monitoring."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Any, NoReturn

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError
from django.utils import timezone

from django_outbox.exceptions import OutboxError, in_one_line
from django_outbox.management import status_check
from django_outbox.management.base import OutboxCommand, logging_to
from django_outbox.management.option_types import number
from django_outbox.management.status_check import Limits
from django_outbox.management.status_text import status_text
from django_outbox.observability.text import local
from django_outbox.operations.status import full_status
from django_outbox.worker.database_errors import UNAVAILABLE, drop_broken_connections

WATCH_SECONDS = 2.0
CLEAR = "\x1b[H\x1b[2J\x1b[3J"
CHECK_SECONDS = 10.0


class WrongUsage(CommandError):
    """Options that cannot be combined."""


class Command(OutboxCommand):
    help = (
        "Show counts and ages of messages by status and topic, how late they are, the next retries, throughput, workers, "
        "and the lag of consumer groups. With --check: one line and an exit code for monitoring: 0 OK, 1 WARNING, 2 "
        "CRITICAL (also if the database does not answer), 3 UNKNOWN (wrong usage)."
    )
    _checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--json", action="store_true", help="Print JSON; with --watch one document per line.")
        parser.add_argument(
            "--watch",
            nargs="?",
            type=number(0.1, float),
            const=WATCH_SECONDS,
            metavar="SECONDS",
            help=f"Refresh every SECONDS (default: {WATCH_SECONDS:g}), until Ctrl-C.",
        )
        parser.add_argument(
            "--no-broker",
            action="store_false",
            dest="broker",
            help="Skip the lag, which needs the broker. By default, wait up to 2 s for it.",
        )
        parser.add_argument(
            "--check",
            action="store_true",
            help="Compare with the limits below and exit accordingly. Only --max-lag needs the broker.",
        )
        parser.add_argument(
            "--max-age",
            type=number(0, float),
            metavar="S",
            help="CRITICAL if a message is more than S seconds late: due and not sent, or sent and not handled by its "
            "handler here, or due in the inbox. A delayed message is due when its delay is over.",
        )
        parser.add_argument(
            "--max-dead",
            type=number(0),
            metavar="N",
            help="WARNING if more than N messages of the outbox or of the inbox are dead.",
        )
        parser.add_argument(
            "--max-lag",
            type=number(0),
            metavar="N",
            help="CRITICAL if a consumer group is more than N records behind, or its lag is unknown.",
        )
        parser.add_argument(
            "--timeout",
            type=number(0.1, float, most=3600),
            default=CHECK_SECONDS,
            metavar="S",
            help=f"Seconds that --check may take; a database that hangs longer is CRITICAL (default: {CHECK_SECONDS:g}).",
        )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        if self._checks:
            parser.called_from_command_line = False  # raise, as argparse would exit with 2, which is CRITICAL
        return parser

    def run_from_argv(self, argv: list[str]) -> None:
        self._checks = "--check" in argv
        try:
            super().run_from_argv(argv)
        except CommandError as error:  # from the parser; execute() handles those of the command
            self._exit(status_check.UNKNOWN, error)

    def execute(self, *args: Any, **options: Any) -> str | None:
        if not options["check"]:
            return super().execute(*args, **options)
        # No driver reliably gives up on a server that hangs.
        timer = threading.Timer(options["timeout"], self._give_up, [options["timeout"]])
        timer.daemon = True
        if getattr(self, "_called_from_command_line", False):  # not the process of a test or of another caller
            timer.start()
        try:
            try:
                return super().execute(*args, **options)
            finally:
                timer.cancel()
        except WrongUsage as error:
            self._exit(status_check.UNKNOWN, error)
        except (CommandError, DatabaseError) as error:
            self._exit(status_check.CRITICAL, error)
        except Exception as error:
            # A traceback would exit with 1, which is WARNING.
            self._exit(status_check.UNKNOWN, f"{type(error).__name__}: {in_one_line(error)}")

    def _exit(self, code: int, reason: BaseException | str) -> NoReturn:
        text = reason if isinstance(reason, str) else in_one_line(reason)
        self.stdout.write(status_check.line(code, text))
        sys.exit(code)

    def _give_up(self, seconds: float) -> NoReturn:
        reason = f"no answer within {seconds:g} s: the database hangs or is very busy"
        self.stdout.write(status_check.line(status_check.CRITICAL, reason))
        self.stdout.flush()
        os._exit(status_check.CRITICAL)

    def handle(
        self,
        *,
        database: str,
        check: bool,
        watch: float | None,
        broker: bool,
        max_age: float | None,
        max_dead: int | None,
        max_lag: int | None,
        verbosity: int,
        **options: Any,
    ) -> None:
        limits = Limits(max_age, max_dead, max_lag)
        if not check and limits != Limits():
            raise CommandError("--max-age, --max-dead and --max-lag require --check.")
        if check and watch is not None:
            raise WrongUsage("--check cannot be combined with --watch.")
        if max_lag is not None and not broker:
            raise WrongUsage("--max-lag cannot be combined with --no-broker.")
        self.require_tables(database)
        as_json = bool(options["json"])
        with logging_to(self.stderr, verbosity):  # an unavailable broker is reported in the output
            if watch is not None:
                self._watch(database, watch, broker, as_json)
                return
            status = full_status(database, broker=max_lag is not None if check else broker)
        if as_json:
            self.stdout.write(json.dumps(status, indent=2))
        elif not check:
            self.stdout.write(status_text(status))
        if check:
            code, line = status_check.check(status, limits)
            if not as_json:
                self.stdout.write(line)
            sys.exit(code)

    def _watch(self, database: str, seconds: float, broker: bool, as_json: bool) -> None:
        """Show the status until Ctrl-C. A terminal is redrawn; otherwise the output is appended."""
        on_terminal = self.stdout.isatty()
        with suppress(KeyboardInterrupt):
            while True:
                text = self._status(database, broker, as_json)
                if not as_json:
                    head = f"{local(timezone.now()):%Y-%m-%d %H:%M:%S}, every {seconds:g} s, Ctrl-C to stop"
                    text = f"{CLEAR}{head}\n\n{text}" if on_terminal else f"{head}\n\n{text}\n"
                self.stdout.write(text)
                self.stdout.flush()
                time.sleep(seconds)
        self.stdout.write("")

    def _status(self, database: str, broker: bool, as_json: bool) -> str:
        """The status, or the error that prevented it: the next refresh may succeed."""
        try:
            status = full_status(database, broker=broker)
        except (*UNAVAILABLE, OutboxError, ImproperlyConfigured) as error:
            drop_broken_connections()
            trouble = in_one_line(error)
            return json.dumps({"trouble": trouble}) if as_json else f"Unknown: {trouble}"
        return json.dumps(status) if as_json else status_text(status)
