"""What the commands that act on selected messages share: options, confirmation, preview and progress."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, NamedTuple

from django.core.management.base import CommandError, CommandParser
from django.db.models import QuerySet

from django_outbox.conf import settings
from django_outbox.management.base import OutboxCommand, record
from django_outbox.management.option_types import number, text, time
from django_outbox.management.progress import Progress
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.models.fields import database_now
from django_outbox.observability import text as texts
from django_outbox.operations.counts import counted
from django_outbox.operations.retry_preview import frequent_types, newest, seconds_until_last
from django_outbox.operations.selection import LARGEST_ID, Selection
from django_outbox.state.controls import Controlled
from django_outbox.worker.stop import stop_on_signals

MANY = 100
"""Acting on more than this asks for confirmation on a terminal."""
INTERRUPTED = 130
CRITERIA = ("type", "topic", "key", "text", "since", "until")


class Action(NamedTuple):
    """What a command does to messages, in the words of its output.

    Attributes:
        infinitive, verb, participle: such as "retry", "retries", "retried".
        kind: of messages, such as "waiting"; ``status`` is theirs.
        done: what they are afterwards, such as "due now".
        time: the column with the time that the preview shows; ``since`` is its name.
        logger: of the command.
    """

    infinitive: str
    verb: str
    participle: str
    kind: str
    status: str
    done: str
    time: str
    since: str
    logger: str

    def messages(self, count: int) -> str:
        return f"{count:,} {self.kind} message" + ("" if count == 1 else "s")


class SelectionCommand(OutboxCommand):
    """A command on the messages that match filters, or on all."""

    def add_selection(self, parser: CommandParser, *, changed: str, whole: str) -> None:
        """Add the options that select messages.

        Args:
            changed: what ``--since`` is about, such as "died".
            whole: what ``--all`` selects.
        """
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
            help=f"Messages that {changed} at this time or later: 2026-11-24, 2026-11-24T18:30 (default time zone: the "
            "project's), or an age such as 30m, 2h, 3d, 1w.",
        )
        parser.add_argument("--until", type=time, metavar="WHEN", help=f"Messages that {changed} before this time.")
        parser.add_argument("--all", action="store_true", help=whole)
        parser.add_argument("--dry-run", action="store_true", help="Only print how many messages match, with a sample.")
        parser.add_argument(
            "--no-input",
            action="store_false",
            dest="interactive",
            help=f"Do not ask for confirmation, even for more than {MANY} messages.",
        )

    def selection(self, options: dict[str, Any]) -> Selection:
        """The selection of the options.

        Raises:
            CommandError: it is not clear which messages are meant.
        """
        ids: list[int] | None = options["id"]
        values = {name: options[name] for name in CRITERIA if options[name] is not None}
        selection = Selection(values if ids is None else {"ids": ",".join(map(str, ids)), **values})
        if bool(selection.values) == options["all"]:
            raise CommandError("Select messages with filters, such as --id 17, or all messages with --all.")
        return selection

    def act(
        self,
        action: Action,
        selection: Selection,
        messages: QuerySet[Any],
        batches: Any,
        options: dict[str, Any],
        *,
        rate: int | None = None,
        about: str = "",
    ) -> None:
        """Preview the action, or confirm and do it.

        Args:
            messages: those that the action may change.
            batches: a function from the selected messages to the counts of each batch.
            about: details for the audit log.
        """
        selected = selection.apply(messages)
        missing = _others(options, messages, action)
        count = selected.count()
        if not count and not options["all"]:
            nothing = f"No {action.kind} message matches ({selection}). Nothing was {action.participle}."
            raise CommandError("\n".join(missing) or nothing)
        if options["dry_run"]:
            self._preview(action, selected, count, rate)
        elif self._confirm(action, count, options["interactive"]):
            which = ("inbox: " if options["inbox"] else "") + (str(selection) or "all")
            self._work(action, batches(selected), count, which, rate, about)
        for message in missing:
            self.stderr.write(message)

    def _confirm(self, action: Action, count: int, interactive: bool) -> bool:
        if count <= MANY or not (interactive and sys.stdin.isatty() and self.stdout.isatty()):
            return True
        question = f"{action.infinitive.capitalize()} {action.messages(count)}? [y/N] "
        if input(question).strip().lower() in ("y", "yes"):
            return True
        raise CommandError(f"Nothing was {action.participle}.")

    def _work(
        self, action: Action, batches: Iterable[Controlled], count: int, which: str, rate: int | None, about: str
    ) -> None:
        done = skipped = released = 0
        record(action.infinitive, f"{action.verb} {action.kind} messages ({which}){about}")
        with stop_on_signals(logging.getLogger(action.logger)) as stop, Progress(self.stderr) as progress:
            for batch in batches:
                done, skipped, released = done + batch.changed, skipped + batch.skipped, released + batch.released
                progress.show((done + skipped) / max(count, 1), f"{done:,} of {count:,} messages {action.done}")
                if stop.requested:
                    break
            stopped = stop.requested  # read here, as leaving the block sets it
        record(action.infinitive, f"has {action.participle} {action.messages(done)} ({which})")
        seconds = seconds_until_last(done, rate)
        last = f"; the last is due in {timedelta(seconds=seconds)}" if seconds else ""
        self.stdout.write(f"{action.messages(done)} {action.done}{last}.")
        if released:
            self.stdout.write(f"{counted(released, 'later message')} of their keys due now too.")
        if skipped:
            self.stdout.write(f"{skipped:,} skipped: being sent or handled, or changed meanwhile.")
        left = count - done - skipped - (released if action.time == "next_retry_at" else 0)
        if stopped and left > 0:
            raise CommandError(
                f"Stopped early: {left:,} are still {action.kind}. Run the same command again to continue.",
                returncode=INTERRUPTED,
            )

    def _preview(self, action: Action, selected: QuerySet[Any], count: int, rate: int | None) -> None:
        self.stdout.write(f"{action.messages(count)} would be {action.participle}.")
        if seconds := seconds_until_last(count, rate):
            self.stdout.write(f"The last would be due in {timedelta(seconds=seconds)}.")
            if settings.ordering == "key":
                self.stdout.write("Later messages with the same keys, including new ones, would wait for them.")
        for event_type, number_of_type in frequent_types(selected):
            self.stdout.write(f"{number_of_type:>10,}  {_type(event_type)}")
        sample = newest(selected.defer("payload", "raw_value", "headers"))
        if sample:
            self.stdout.write("The newest:" if len(sample) < count else "All:")
        for message in sample:
            # The error may contain secrets; its fingerprint contains no values.
            key = f" key {texts.visible(message.message_key)}" if message.message_key else ""
            error = texts.visible(texts.one_line(message.fingerprint))
            if not error and action.status == "dead":
                error = "reason unknown"
            self.stdout.write(
                f"{message.id:>10}  {_type(message.event_type)}{key}, {action.since} "
                f"{texts.local(getattr(message, action.time)):%Y-%m-%d %H:%M:%S}{': ' if error else ''}{error}"
            )


def messages_of(options: dict[str, Any]) -> QuerySet[Any]:
    """All messages of the table: of the outbox only those of this service."""
    if options["inbox"]:
        return InboxMessage.objects.using(options["database"])
    return OutboxMessage.objects.using(options["database"]).own()


def changed_until_now(messages: QuerySet[Any]) -> QuerySet[Any]:
    """Messages that have changed before now: later ones were not counted."""
    return messages.filter(updated_at__lte=database_now(messages))


def _others(options: dict[str, Any], messages: QuerySet[Any], action: Action) -> list[str]:
    """Say of each message that ``--id`` names why the action does not change it."""
    ids: list[int] = options["id"] or []
    eligible = set(messages.filter(id__in=ids).values_list("id", flat=True))
    statuses = dict(messages_of(options).filter(id__in=ids).values_list("id", "status"))
    foreign = {}
    if not options["inbox"]:
        others = OutboxMessage.objects.using(messages.db).filter(id__in=ids).exclude(source=settings.source)
        foreign = dict(others.values_list("id", "source"))
    return [
        f"Message {id} is {'due already' if statuses[id] == action.status else f'{statuses[id]}, not {action.kind}'}."
        if id in statuses
        else f"Message {id} has the source {foreign[id]!r}: {action.infinitive} it with that SOURCE or in the admin."
        if id in foreign
        else f"Message {id} does not exist."
        for id in ids
        if id not in eligible
    ]


def _type(event_type: str) -> str:
    """The event type to show; an unreadable record may have none."""
    return texts.visible(event_type) or "(no type)"
