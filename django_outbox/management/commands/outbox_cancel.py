"""``manage.py outbox_cancel``: makes pending messages dead."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_outbox.management.base import operator
from django_outbox.management.option_types import text
from django_outbox.management.selecting import Action, SelectionCommand, messages_of
from django_outbox.models.fields import database_now
from django_outbox.operations.cancelling import cancel_reason
from django_outbox.state.controls import cancel, pending
from django_outbox.state.ordering import holds_behind_dead

CANCEL = Action(
    *("cancel", "cancels", "cancelled", "pending", "pending", "dead now"),
    *("created_at", "written", "django_outbox.cancel"),
)


class Command(SelectionCommand):
    help = (
        "Make pending messages dead, so that they are neither sent nor handled. Select them with filters (all must match) "
        "or with --all. A message that is being sent or handled is skipped. outbox_retry makes cancelled messages pending "
        "again. You can stop it at any time (Ctrl-C): the remaining messages stay pending, and the same command continues "
        "with them."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--reason", type=text, required=True, metavar="TEXT", help="Why; stored as the error of each message."
        )
        self.add_selection(parser, changed="were written or last changed", whole="All pending messages.")

    def handle(self, **options: Any) -> None:
        selection = self.selection(options)
        if not options["reason"].strip():
            raise CommandError("--reason must not be empty.")
        using = options["database"]
        self.require_tables(using)
        messages = messages_of(options)
        # Messages written from now on were not counted.
        found = pending(messages).filter(created_at__lte=database_now(messages))
        reason = cancel_reason(operator(), options["reason"])
        about = f": {options['reason']}"
        self.act(CANCEL, selection, found, partial(cancel, reason=reason, using=using), options, about=about)
        if holds_behind_dead() and not options["dry_run"]:
            self.stdout.write(
                'ON_DEAD is "hold": later messages with the same keys wait until you retry or delete these dead letters.'
            )
