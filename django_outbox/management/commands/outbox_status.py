"""``manage.py outbox_status``: what is in the outbox, for people and for monitoring."""

from __future__ import annotations

import json
import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db.models import Count, Min

from django_outbox.faults import in_one_line
from django_outbox.fields import DatabaseNow
from django_outbox.management.worker import OutboxCommand, at_least
from django_outbox.models import InboxMessage, OutboxMessage

OK, WARNING, CRITICAL = 0, 1, 2


class Command(OutboxCommand):
    help = (
        "Show how many messages are in which state and how old the oldest are. With --check: one "
        "line and an exit code for monitoring: 0 OK, 1 WARNING, 2 CRITICAL."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--json", action="store_true", help="Print JSON.")
        parser.add_argument("--check", action="store_true", help="Compare with the limits below and exit so.")
        parser.add_argument(
            "--max-age",
            type=at_least(0, float),
            metavar="S",
            help="CRITICAL if the oldest pending or published message is older than S seconds.",
        )
        parser.add_argument(
            "--max-dead",
            type=at_least(0),
            metavar="N",
            help="WARNING if more than N messages are dead.",
        )

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except CommandError as error:
            if not options["check"]:
                raise
            self.stdout.write(f"OUTBOX CRITICAL - {in_one_line(error)}")
            sys.exit(CRITICAL)

    def handle(
        self,
        *,
        database: str,
        json: bool,
        check: bool,
        max_age: float | None,
        max_dead: int | None,
        **options: Any,
    ) -> None:
        if not check and (max_age is not None or max_dead is not None):
            raise CommandError("--max-age and --max-dead say what --check compares with: add --check.")
        self.require_tables(database)
        status, inbox = outbox_status(database), inbox_status(database)
        if json:
            self.stdout.write(_json({"outbox": status, "inbox": inbox}))
        elif not check:
            of_inbox = {f"inbox_{name}": value for name, value in inbox.items()} if any(inbox.values()) else {}
            for name, value in {**status, **of_inbox}.items():
                self.stdout.write(f"{name.replace('_', ' '):<26}{_plain(value):>12}")
        if check:
            sys.exit(self._check(status, inbox, max_age, max_dead, quiet=json))

    def _check(
        self,
        status: dict[str, Any],
        inbox: dict[str, Any],
        max_age: float | None,
        max_dead: int | None,
        *,
        quiet: bool,
    ) -> int:
        code, reasons = OK, []
        if max_dead is not None and status["dead"] > max_dead:
            code = WARNING
            reasons.append(f"{status['dead']} dead")
        if max_dead is not None and inbox["dead"] > max_dead:
            code = WARNING
            reasons.append(f"{inbox['dead']} dead in the inbox")
        ages = {name: status[f"oldest_{name}_seconds"] for name in ("pending", "published")}
        ages["pending inbox"] = inbox["oldest_pending_seconds"]
        for name, age in ages.items():
            if max_age is not None and age is not None and age > max_age:
                code = CRITICAL
                reasons.append(f"oldest {name} message is {age:.0f} s old")
        if not quiet:
            word = ("OK", "WARNING", "CRITICAL")[code]
            counts = ", ".join(f"{status[name]} {name}" for name in OutboxMessage.Status.values)
            self.stdout.write(f"OUTBOX {word} - {'; '.join(reasons) or counts}")
        return code


def outbox_status(using: str) -> dict[str, Any]:
    """Counts by state, and seconds since the oldest message in it was written (None: none is)."""
    return _status(OutboxMessage, ("pending", "published", "dead"), using)


def inbox_status(using: str) -> dict[str, Any]:
    """The same of the inbox, since the oldest pending message was received."""
    return _status(InboxMessage, ("pending",), using)


def _status(model: type[OutboxMessage | InboxMessage], with_age: tuple[str, ...], using: str) -> dict[str, Any]:
    messages = model.objects.using(using).order_by()
    groups = messages.values_list("status").annotate(Count("id"), Min("created_at"), now=Min(DatabaseNow()))
    found = {status: (count, max(0.0, (now - oldest).total_seconds())) for status, count, oldest, now in groups}
    status: dict[str, Any] = {name: found.get(name, (0, None))[0] for name in model.Status.values}
    for name in with_age:
        status[f"oldest_{name}_seconds"] = found.get(name, (0, None))[1]
    return status


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2)
