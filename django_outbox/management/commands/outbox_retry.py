"""``manage.py outbox_retry``: retries dead messages, and those that wait or were consumed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db.models import QuerySet

from django_outbox.management.option_types import number, text
from django_outbox.management.selecting import Action, SelectionCommand, changed_until_now, messages_of
from django_outbox.state.controls import Controlled, make_due, waiting
from django_outbox.state.retry import retry_in_batches

LOGGER = "django_outbox.retry"
RETRY = Action("retry", "retries", "retried", "dead", "dead", "pending again", "updated_at", "died", LOGGER)
SEND_NOW = RETRY._replace(kind="waiting", status="pending", done="due now", time="next_retry_at", since="due")
REPROCESS = Action(
    *("reprocess", "reprocesses", "reprocessed", "consumed", "consumed", "pending again"),
    *("consumed_at", "consumed", LOGGER),
)


class Command(SelectionCommand):
    help = (
        "Make dead messages pending again, all at once or at a rate, with their failure count reset. Select them with "
        "filters (all must match) or with --all. Only dead messages are changed, unless --waiting or --consumed selects "
        "others. You can stop it at any time (Ctrl-C): the remaining messages stay as they are, and the same command "
        "continues with them."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        kinds = parser.add_mutually_exclusive_group()
        kinds.add_argument(
            "--waiting",
            action="store_true",
            help="Instead of dead messages, make pending ones due now that wait for a retry or a delay. Their failures "
            "stay counted.",
        )
        kinds.add_argument(
            "--consumed",
            action="store_true",
            help="Instead of dead messages, send consumed ones of the outbox again: their handlers run once more, and "
            "other readers of the topic get duplicates. Needs --reason and --yes.",
        )
        self.add_selection(
            parser,
            changed="died (were consumed, last failed)",
            whole="All dead messages (all that wait, or were consumed).",
        )
        parser.add_argument(
            "--rate",
            type=number(1, most=100_000),
            metavar="N",
            help="Messages that become due per second, in the order of their ids, to limit the load on a system that has "
            "just recovered. The command does not wait for them.",
        )
        parser.add_argument("--reason", type=text, metavar="TEXT", help="With --consumed: why, for the audit log.")
        parser.add_argument("--yes", action="store_true", help="With --consumed: confirm that handlers run again.")

    def handle(self, **options: Any) -> None:
        selection = self.selection(options)
        rate: int | None = options["rate"]
        if options["consumed"]:
            _check_reprocess(options)
        if options["waiting"] and rate is not None:
            raise CommandError("--rate cannot be combined with --waiting, as some messages would wait longer.")
        using = options["database"]
        self.require_tables(using)
        messages = messages_of(options)
        if options["waiting"]:
            self.act(SEND_NOW, selection, waiting(messages), partial(make_due, using=using), options)
            return
        action = REPROCESS if options["consumed"] else RETRY
        # id > 0 selects the index.
        ended = changed_until_now(messages).filter(status=action.status, id__gt=0)
        pace = "all at once" if rate is None else f"{rate} per second"
        about = f", {pace}" + (f": {options['reason']}" if options["consumed"] else "")

        def batches(selected: QuerySet[Any]) -> Iterator[Controlled]:
            retried = retry_in_batches(selected, using=using, rate=rate, status=action.status)
            return (Controlled(count) for count in retried)

        self.act(action, selection, ended, batches, options, rate=rate, about=about)


def _check_reprocess(options: dict[str, Any]) -> None:
    if options["inbox"]:
        raise CommandError(
            "Consumed messages of the inbox cannot be reprocessed: their content has been removed. Ask the service that "
            "sent them to send them again with new event ids."
        )
    if not options["dry_run"] and not (options["yes"] and (options["reason"] or "").strip()):
        raise CommandError(
            "--consumed runs handlers again that have already run, and sends duplicates to other readers of the topic. "
            'Check with --dry-run, then confirm with --yes --reason "...".'
        )
