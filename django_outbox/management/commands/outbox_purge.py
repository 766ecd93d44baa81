"""``manage.py outbox_purge``: delete messages that ended long ago."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import CommandParser
from django.db.models import QuerySet

from django_outbox.conf import settings
from django_outbox.fields import DatabaseNow
from django_outbox.management.worker import OutboxCommand, at_least
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.removal import delete

INBOX = "inbox"


class Command(OutboxCommand):
    help = (
        "Delete messages that have been consumed or published, and those that the inbox has consumed, "
        "for longer than RETENTION says. Dead ones are kept unless RETENTION gives them an age; pending ones are always kept."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--batch-size",
            type=at_least(1, most=10_000),
            default=1000,
            metavar="N",
            help="Rows to delete in one transaction (default: 1000).",
        )
        parser.add_argument("--dry-run", action="store_true", help="Only say how many it would be.")

    def handle(self, *, database: str, batch_size: int, dry_run: bool, **options: Any) -> None:
        self.require_tables(database)
        for status, age in settings.retention.items():
            if age is None:
                continue
            if dry_run:
                count, done = expired(status, age, using=database).count(), "would be deleted"
            else:
                count, done = purge(status, age, batch_size, using=database), "deleted"
            if count or status != INBOX:  # not every project has an inbox
                self.stdout.write(f"{count} {status} messages {done}.")


def expired(status: str, age: timedelta, *, using: str) -> QuerySet[Any]:
    """Messages in a state, or consumed by the inbox, since longer than ``age``, by the database's clock."""
    messages: QuerySet[Any] = (
        InboxMessage.objects.using(using).consumed()
        if status == INBOX
        else OutboxMessage.objects.using(using).filter(status=status)
    )
    return messages.filter(updated_at__lt=DatabaseNow() - age)


def purge(status: str, age: timedelta, batch_size: int, *, using: str) -> int:
    """Delete expired messages batch by batch; returns how many."""
    return delete(expired(status, age, using=using), using=using, batch_size=batch_size)
