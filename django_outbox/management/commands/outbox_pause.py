"""``manage.py outbox_pause``: lets messages of an event type or a handler wait."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_outbox.conf import settings
from django_outbox.management.base import OutboxCommand, operator, record
from django_outbox.management.option_types import text
from django_outbox.models.lengths import HANDLER_LENGTH, REASON_LENGTH, TYPE_LENGTH
from django_outbox.operations.pausing import UnknownSubject, require_subject, resume_command
from django_outbox.state.pauses import pause

SUBJECT_LENGTH = min(TYPE_LENGTH, HANDLER_LENGTH)


class Command(OutboxCommand):
    help = (
        "Pause an event type or a handler: its messages wait, uncounted, and so do later messages of their keys. They are "
        "sent to Kafka, for other readers of the topic. All consumers of the group obey within 5 seconds, after the "
        "messages that they are handling. outbox_resume ends the pause, outbox_status shows it."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        add_subject(parser)
        parser.add_argument(
            "--reason", type=text, required=True, metavar="TEXT", help="Why; shown to everyone who sees the pause."
        )

    def handle(
        self,
        *,
        database: str,
        group: str | None,
        event_type: str | None,
        handler: str | None,
        reason: str,
        **options: Any,
    ) -> None:
        if not 0 < len(reason.strip()) <= REASON_LENGTH:
            raise CommandError(f"--reason must have 1 to {REASON_LENGTH} characters.")
        self.require_tables(database)
        group = group or settings.consumer_group
        subject = {"event_type": event_type or "", "handler": handler or ""}
        try:
            require_subject(group, **subject)
        except UnknownSubject as error:
            raise CommandError(str(error)) from error
        record("pause", f"pauses {event_type or handler} (group {group}): {reason}")
        pause(group, **subject, reason=reason, by=operator(), using=database)
        command = resume_command(group, **subject, using=database)
        self.stdout.write(f"{event_type or handler} is paused in the group {group}. To end the pause: {command}")


def _subject(given: str) -> str:
    if not given or len(given) > SUBJECT_LENGTH:
        raise argparse.ArgumentTypeError(f"must have 1 to {SUBJECT_LENGTH} characters")
    return text(given)


def add_subject(parser: CommandParser, **others: str) -> None:
    """Add the options that say what a pause is for; ``others`` are flags in place of a subject, with their help."""
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument(
        "--event-type",
        type=_subject,
        metavar="PATTERN",
        help="Messages of this type; a pattern such as 'order.*' is for several.",
    )
    subject.add_argument(
        "--handler",
        type=_subject,
        metavar="NAME",
        help="Messages for this handler, such as shop.handlers.ship. Their other handlers wait too.",
    )
    for flag, meaning in others.items():
        subject.add_argument(f"--{flag}", action="store_true", help=meaning)
    parser.add_argument(
        "--group", type=text, metavar="G", help="The consumer group (default: the main group, CONSUMER_GROUP)."
    )
