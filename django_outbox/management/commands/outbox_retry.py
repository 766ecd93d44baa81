"""``manage.py outbox_retry``: retries dead messages."""

from __future__ import annotations

import logging
import sys
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db.models import QuerySet

from django_outbox.conf import settings
from django_outbox.management.base import OutboxCommand, record
from django_outbox.management.option_types import number, text, time
from django_outbox.management.progress import Progress
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.models.fields import database_now
from django_outbox.observability import text as texts
from django_outbox.operations.retry_preview import frequent_types, newest, seconds_until_last
from django_outbox.operations.selection import LARGEST_ID, Selection
from django_outbox.state.retry import retry_in_batches
from django_outbox.worker.stop import stop_on_signals

log = logging.getLogger("django_outbox.retry")

MANY = 100
"""Retrying more than this asks for confirmation on a terminal."""
INTERRUPTED = 130
CRITERIA = ("type", "topic", "key", "text", "since", "until")


class Command(OutboxCommand):
    help = (
        "Make dead messages pending again, all at once or at a rate, with their failure count reset. Select them with "
        "filters (all must match) or with --all. Only dead messages are changed. You can stop it at any time (Ctrl-C): the "
        "remaining messages stay dead, and the same command continues with them."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--inbox", action="store_true", help="Messages of the inbox, not of the outbox.")
        parser.add_argument(
            "--id", nargs="+", type=number(1, most=LARGEST_ID), metavar="N", help="Messages with these ids."
        )
        parser.add_argument("--event-type", dest="type", type=text, metavar="TYPE", help="Messages of this event type.")
        parser.add_argument("--topic", type=text, metavar="T", help="Messages of this topic.")
        parser.add_argument(
            "--key", type=text, metavar="K", help='Messages with this key; "" selects those without a key.'
        )
        parser.add_argument(
            "--error-contains",
            dest="text",
            type=text,
            metavar="TEXT",
            help="Messages whose last error contains this text.",
        )
        parser.add_argument(
            "--since",
            type=time,
            metavar="WHEN",
            help="Messages that died at this time or later: 2026-11-24, 2026-11-24T18:30 (default time zone: the "
            "project's), or an age such as 30m, 2h, 3d, 1w.",
        )
        parser.add_argument("--until", type=time, metavar="WHEN", help="Messages that died before this time.")
        parser.add_argument("--all", action="store_true", help="All dead messages.")
        parser.add_argument(
            "--rate",
            type=number(1, most=100_000),
            metavar="N",
            help="Messages that become due per second, in the order of their ids, to limit the load on a system that has "
            "just recovered. The command does not wait for them.",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="Only print how many messages would be retried, with a sample."
        )
        parser.add_argument(
            "--no-input",
            action="store_false",
            dest="interactive",
            help=f"Do not ask for confirmation, even for more than {MANY} messages.",
        )

    def handle(
        self,
        *,
        database: str,
        inbox: bool,
        id: list[int] | None,
        all: bool,
        rate: int | None,
        dry_run: bool,
        interactive: bool,
        **options: Any,
    ) -> None:
        selection = _selection(id, options)
        if bool(selection.values) == all:
            raise CommandError("Select messages with filters, such as --id 17, or all messages with --all.")
        self.require_tables(database)
        messages: QuerySet[Any] = (
            InboxMessage.objects.using(database) if inbox else OutboxMessage.objects.using(database).own()
        )
        # id > 0 selects the index. Messages that die from now on were not counted, and are not retried.
        dead = selection.apply(messages.filter(status="dead", id__gt=0, updated_at__lte=database_now(messages)))
        missing = _not_dead(id or [], messages)
        count = dead.count()
        if not count and not all:
            raise CommandError("\n".join(missing) or f"No dead message matches ({selection}). Nothing was retried.")
        if dry_run:
            self._preview(dead, count, rate)
        elif self._confirm(count, interactive):
            about = ("inbox: " if inbox else "") + (str(selection) or "all")
            self._retry(dead, count, about, rate, database)
        for message in missing:
            self.stderr.write(message)

    def _confirm(self, count: int, interactive: bool) -> bool:
        if count <= MANY or not (interactive and sys.stdin.isatty() and self.stdout.isatty()):
            return True
        if input(f"Retry {count:,} dead messages? [y/N] ").strip().lower() in ("y", "yes"):
            return True
        raise CommandError("Nothing was retried.")

    def _retry(self, dead: QuerySet[Any], count: int, about: str, rate: int | None, using: str) -> None:
        done = 0
        record("retry", f"retries dead messages ({about}), {'all at once' if rate is None else f'{rate} per second'}")
        with stop_on_signals(log) as stop, Progress(self.stderr) as progress:
            for revived in retry_in_batches(dead, using=using, rate=rate):
                done += revived
                progress.show(done / max(count, 1), f"{done:,} of {count:,} messages pending again")
                if stop.requested:
                    break
            stopped = stop.requested  # read here, as leaving the block sets it
        record("retry", f"has retried {_messages(done)} ({about})")
        seconds = seconds_until_last(done, rate)
        last = f"; the last is due in {timedelta(seconds=seconds)}" if seconds else ""
        self.stdout.write(f"{_messages(done)} pending again{last}.")
        if stopped and done < count:
            raise CommandError(
                f"Stopped early: {count - done:,} are still dead. Run the same command again to continue.",
                returncode=INTERRUPTED,
            )

    def _preview(self, dead: QuerySet[Any], count: int, rate: int | None) -> None:
        self.stdout.write(f"{_messages(count)} would be retried.")
        if seconds := seconds_until_last(count, rate):
            self.stdout.write(f"The last would be due in {timedelta(seconds=seconds)}.")
        for event_type, messages in frequent_types(dead):
            self.stdout.write(f"{messages:>10,}  {_type(event_type)}")
        sample = newest(dead.defer("payload", "headers"))
        if sample:
            self.stdout.write("The newest:" if len(sample) < count else "All:")
        for message in sample:
            # The error may contain secrets; its fingerprint contains no values.
            key = f" key {texts.visible(message.message_key)}" if message.message_key else ""
            self.stdout.write(
                f"{message.id:>10}  {_type(message.event_type)}{key}, died "
                f"{texts.local(message.updated_at):%Y-%m-%d %H:%M:%S}: "
                f"{texts.visible(texts.one_line(message.fingerprint)) or 'reason unknown'}"
            )


def _selection(ids: list[int] | None, options: dict[str, Any]) -> Selection:
    values = {name: options[name] for name in CRITERIA if options[name] is not None}
    return Selection(values if ids is None else {"ids": ",".join(map(str, ids)), **values})


def _not_dead(ids: list[int], messages: QuerySet[Any]) -> list[str]:
    statuses = dict(messages.filter(id__in=ids).values_list("id", "status"))
    foreign = {}
    if messages.model is OutboxMessage:
        others = OutboxMessage.objects.using(messages.db).filter(id__in=ids).exclude(source=settings.source)
        foreign = dict(others.values_list("id", "source"))
    return [
        f"Message {id} is {statuses[id]}, not dead."
        if id in statuses
        else f"Message {id} has the source {foreign[id]!r}: retry it with that SOURCE or in the admin."
        if id in foreign
        else f"Message {id} does not exist."
        for id in ids
        if statuses.get(id) != "dead"
    ]


def _type(event_type: str) -> str:
    """The event type to show; an unreadable record may have none."""
    return texts.visible(event_type) or "(no type)"


def _messages(count: int) -> str:
    return f"{count} dead message" + ("" if count == 1 else "s")
