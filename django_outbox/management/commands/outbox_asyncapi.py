"""``manage.py outbox_asyncapi``: describes the project's events as an AsyncAPI document."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_outbox.exceptions import OutboxError, in_one_line
from django_outbox.management.option_types import text
from django_outbox.operations.asyncapi import asyncapi_document
from django_outbox.operations.asyncapi_changes import Events, breaking_changes
from django_outbox.operations.counts import counted

FAILED = 2
"""Exit code of every error, as 1 means that something breaks."""


class Command(BaseCommand):
    help = (
        "Print an AsyncAPI 3 document, as JSON, of the events that this project publishes and handles: topics, messages, "
        "JSON Schemas and servers, without passwords. Needs neither database nor broker. Declared types (@event_type) "
        "are listed as sent, types with a handler as received. With --check, print breaking changes since an earlier "
        "document. Exit codes: 0 no breaking changes, 1 breaking changes (or Django cannot start), 2 the command failed."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--api-version",
            type=text,
            default="1.0.0",
            metavar="V",
            help="info.version of the document (default: %(default)s).",
        )
        parser.add_argument(
            "--check",
            type=Path,
            metavar="OLD",
            help="Compare with this earlier document instead of printing the new one.",
        )

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except CommandError as error:  # also of system checks
            error.returncode = FAILED
            raise
        except (OutboxError, ImproperlyConfigured) as error:
            raise CommandError(in_one_line(error), returncode=FAILED) from error

    def handle(self, *, api_version: str, check: Path | None, **options: Any) -> None:
        old = None if check is None else _read(check)
        document = asyncapi_document(api_version)
        if old is None:
            self.stdout.write(json.dumps(document, indent=2, ensure_ascii=False))
            return
        problems = breaking_changes(old, Events(document))
        for problem in problems:
            self.stdout.write(f"BREAKS {problem}", self.style.ERROR)
        self.stdout.write(f"{counted(len(problems), 'breaking change')} since {check}.")
        if problems:
            self.stdout.write(f"To accept, print a new document and commit it: manage.py outbox_asyncapi > {check}")
            sys.exit(1)


def _read(path: Path) -> Events:
    how = f"Print one with: manage.py outbox_asyncapi > {path}"
    try:
        return Events(json.loads(path.read_text("utf-8")))
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}. {how}") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise CommandError(f"{path} is not a document that outbox_asyncapi printed. {how}") from None
