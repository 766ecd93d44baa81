"""``manage.py outbox_retry``: give dead messages another life."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db.models import QuerySet

from django_outbox import inbox_state, state
from django_outbox.management.worker import OutboxCommand, at_least
from django_outbox.models import InboxMessage, OutboxMessage


class Command(OutboxCommand):
    help = (
        "Make dead messages pending again, due at once, with no failures counted. Choose them with "
        "one or more filters (all have to match) or --all. Nothing but dead messages is touched."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--inbox", action="store_true", help="Those of the inbox, not of the outbox.")
        parser.add_argument("--id", nargs="+", type=at_least(1, most=2**63 - 1), metavar="N", help="These messages.")
        parser.add_argument("--event-type", metavar="TYPE", help="Those of this event type.")
        parser.add_argument("--topic", metavar="T", help="Those of this topic.")
        parser.add_argument("--key", metavar="K", help="Those of this key.")
        parser.add_argument("--error-contains", metavar="TEXT", help="Those whose last error contains this text.")
        parser.add_argument("--all", action="store_true", help="All dead messages.")
        parser.add_argument("--dry-run", action="store_true", help="Only say how many it would be.")

    def handle(
        self,
        *,
        database: str,
        inbox: bool,
        id: list[int] | None,
        event_type: str | None,
        topic: str | None,
        key: str | None,
        error_contains: str | None,
        all: bool,
        dry_run: bool,
        **options: Any,
    ) -> None:
        filters: dict[str, Any] = {
            "id__in": id,
            "event_type": event_type,
            "topic": topic,
            "message_key": key,
            "last_error__contains": error_contains,
        }
        filters = {name: value for name, value in filters.items() if value is not None}
        if bool(filters) == all:
            raise CommandError("Choose messages by filters, such as --id 17, or all with --all.")
        self.require_tables(database)
        messages: QuerySet[Any] = (InboxMessage if inbox else OutboxMessage).objects.using(database)
        dead = messages.filter(status="dead", **filters)
        missing = _not_dead(id or [], messages)
        retry = inbox_state.retry if inbox else state.retry
        if dry_run:
            self.stdout.write(f"{_messages(dead.count())} would be retried.")
        else:
            self.stdout.write(f"{_messages(retry(dead, using=database))} pending again.")
        for message in missing:
            self.stderr.write(message)


def _not_dead(ids: list[int], messages: QuerySet[Any]) -> list[str]:
    statuses = dict(messages.filter(id__in=ids).values_list("id", "status"))
    return [
        f"Message {id} is {statuses[id]}, not dead." if id in statuses else f"No message {id}."
        for id in ids
        if statuses.get(id) != "dead"
    ]


def _messages(count: int) -> str:
    return f"{count} dead message" + ("" if count == 1 else "s")
