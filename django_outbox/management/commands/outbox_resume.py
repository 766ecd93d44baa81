"""``manage.py outbox_resume``: ends pauses."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_outbox.conf import settings
from django_outbox.management.base import OutboxCommand, record
from django_outbox.management.commands.outbox_pause import add_subject
from django_outbox.models import Pause
from django_outbox.operations.counts import counted
from django_outbox.state.pauses import resume


class Command(OutboxCommand):
    help = (
        "End a pause of an event type or a handler, exactly as outbox_pause named it. The messages that wait for it are due "
        "at once, and are handled in their order."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        add_subject(parser, all="All pauses of the group.")

    def handle(
        self,
        *,
        database: str,
        group: str | None,
        event_type: str | None,
        handler: str | None,
        all: bool,
        **options: Any,
    ) -> None:
        self.require_tables(database)
        group = group or settings.consumer_group
        of_group = Pause.objects.using(database).filter(group=group)
        pauses = of_group if all else of_group.filter(event_type=event_type or "", handler=handler or "")
        subject = "all pauses" if all else event_type or handler
        if not all and not pauses.exists():
            others = ", ".join(map(str, of_group.order_by("id"))) or "nothing"
            raise CommandError(f"{subject} is not paused in the group {group}. Paused there: {others}.")
        record("resume", f"resumes {subject} (group {group})")
        ended, messages = resume(pauses, using=database)
        self.stdout.write(f"{counted(ended, 'pause')} ended; {counted(messages, 'message')} due now.")
