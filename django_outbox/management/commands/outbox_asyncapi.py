"""``manage.py outbox_asyncapi``: describes the project's events as an AsyncAPI document."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_outbox.management.base import OutboxCommand
from django_outbox.management.option_types import text
from django_outbox.operations.asyncapi import asyncapi_document
from django_outbox.operations.asyncapi_changes import breaking_changes
from django_outbox.operations.counts import counted


class Command(OutboxCommand):
    help = (
        "Print an AsyncAPI 3 document, as JSON, of the events that this project publishes and handles: topics, messages, "
        "JSON Schemas and servers, without passwords. It needs neither database nor broker. Types are sent if they are "
        "declared with @event_type, and received if they have a handler. With --check, print what has changed since an "
        "earlier document and breaks those who read the events; exit code 1 if anything does."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--api-version",
            type=text,
            default="1.0.0",
            metavar="V",
            help="Version of the document, for its info (default: %(default)s).",
        )
        parser.add_argument(
            "--check",
            type=Path,
            metavar="OLD",
            help="Compare with this earlier document instead of printing the new one.",
        )

    def handle(self, *, api_version: str, check: Path | None, **options: Any) -> None:
        document = asyncapi_document(api_version)
        if check is None:
            self.stdout.write(json.dumps(document, indent=2, ensure_ascii=False))
            return
        problems = _problems(check, document)
        for problem in problems:
            self.stdout.write(f"BREAKS {problem}", self.style.ERROR)
        self.stdout.write(f"{counted(len(problems), 'breaking change')} since {check}.")
        if problems:
            sys.exit(1)


def _problems(path: Path, document: dict[str, Any]) -> list[str]:
    try:
        return breaking_changes(json.loads(path.read_text("utf-8")), document)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.", returncode=2) from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise CommandError(f"{path} is not a document that outbox_asyncapi printed.", returncode=2) from None
