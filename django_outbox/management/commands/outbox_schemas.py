"""``manage.py outbox_schemas``: compares the project's schemas with the registry, and registers them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser

from django_outbox.conf import settings
from django_outbox.exceptions import RegistryUnavailable, text_of
from django_outbox.management.base import OutboxCommand, logging_to, record
from django_outbox.management.option_types import text
from django_outbox.operations.counts import counted

if TYPE_CHECKING:
    from django_outbox.operations.schemas import ProjectSchema

UNAVAILABLE = 2
ACTIONS = ("check", "register", "diff")


class Command(OutboxCommand):
    help = (
        "Compare the schemas of SERIALIZERS with the schema registry, for CI and deployment. check: is each valid, and "
        "would the registry accept it? Shows its reasons if not. register: add new versions to the registry. "
        "diff: show what differs from the latest version. Event types are those that SERIALIZERS names, or the files of "
        "its pattern. Exit code: 0 no problems and, for diff, no differences; 1 problems or differences; 2 the registry "
        "does not answer."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("action", choices=ACTIONS, help="What to do.")
        parser.add_argument(
            "--event-type",
            nargs="+",
            type=text,
            metavar="T",
            dest="event_types",
            help="Only the schemas of these event types. A pattern of SERIALIZERS must match each.",
        )

    def handle(self, *, action: str, event_types: list[str] | None, **options: Any) -> None:
        schemas: list[ProjectSchema] = []
        if settings.serializers:  # otherwise, the client of the registry may not be installed
            from django_outbox.operations.schemas import project_schemas

            schemas = project_schemas(event_types)
        if not schemas:
            self.stdout.write('OUTBOX["SERIALIZERS"] names no event type with a schema.')
            return
        if action == "register":
            record("register", f"registers the schemas of {', '.join(each.event_type for each in schemas)}")
        failed = 0
        with logging_to(self.stderr, 0):
            for schema in schemas:
                try:
                    failed += not getattr(self, f"_{action}")(schema)
                except RegistryUnavailable as error:
                    raise CommandError(f"The schema registry {error}", returncode=UNAVAILABLE) from None
                except ImproperlyConfigured as error:
                    self._print(schema, "ERROR", text_of(error))
                    failed += 1
        self.stdout.write(f"{counted(len(schemas), 'schema')}: {_summary(action, failed)}.")
        if failed:
            sys.exit(1)

    def _check(self, schema: ProjectSchema) -> bool:
        problems = schema.incompatibilities()
        for problem in problems:
            self._print(schema, "ERROR", problem)
        if not problems:
            self._print(schema, "OK", schema.wanted.subject)
        return not problems

    def _register(self, schema: ProjectSchema) -> bool:
        loaded = schema.register()
        subject = schema.wanted.subject
        if loaded is None:
            self._print(schema, "OK", f"{subject}: the project has no schema for it; nothing to register")
        else:
            self._print(schema, "OK", f"{subject} version {loaded.version_in(subject)}, id {loaded.id}")
        return True

    def _diff(self, schema: ProjectSchema) -> bool:
        lines = schema.diff()
        self._print(schema, "DIFF" if lines else "OK", schema.wanted.subject)
        for line in lines:
            self.stdout.write(f"    {line}")
        return not lines

    def _print(self, schema: ProjectSchema, level: str, text: str) -> None:
        style = self.style.ERROR if level == "ERROR" else None
        self.stdout.write(f"{level:<6} {schema.event_type}  {text}", style)


def _summary(action: str, failed: int) -> str:
    if action == "diff":
        return f"{failed} differ" if failed else "no differences"
    return counted(failed, "problem") if failed else "no problems"
