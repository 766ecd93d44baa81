"""The schemas of a project, compared with those of the registry."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import glob

from django.core.exceptions import ImproperlyConfigured

from django_outbox.conf import settings
from django_outbox.exceptions import SchemaNotFound
from django_outbox.serializers.configured import current_serializers
from django_outbox.serializers.registry import Loaded, Wanted
from django_outbox.serializers.schemas import RegistrySerializer


@dataclass(frozen=True, slots=True)
class ProjectSchema:
    """The schema of the events of a type, or of all types that a pattern of ``SERIALIZERS`` matches."""

    event_type: str
    topic: str
    serializer: RegistrySerializer

    @property
    def wanted(self) -> Wanted:
        """
        Raises:
            ImproperlyConfigured: its file cannot be read, or is not a schema.
        """
        return self.serializer.wanted(self.event_type, self.topic)

    def latest(self) -> Loaded | None:
        """Return the latest version in the registry; None if the subject does not exist.

        Raises:
            RegistryUnavailable: the registry cannot be asked.
        """
        wanted = Wanted(self.serializer.kind, subject=self.wanted.subject)
        self.serializer.registry.load(wanted)
        try:
            return self.serializer.registry.get(wanted)
        except SchemaNotFound:
            return None

    def incompatibilities(self) -> list[str]:
        """Return why the registry would not take the project's schema; empty if it would, or if the registry has the schema.

        Raises:
            ImproperlyConfigured, RegistryUnavailable: as of ``wanted`` and ``latest``.
        """
        wanted = self.wanted
        if wanted.text is None:
            found = self.latest()
            return (
                [] if found else [f"The registry has no subject {wanted.subject!r}, and the project no schema for it."]
            )
        if self.serializer.registry.is_compatible(wanted):
            return []
        latest = self.latest()
        reasons = [] if latest is None else self.serializer.broken_readers(latest, wanted.text)
        return reasons or [f"The registry refuses it as incompatible with earlier versions of {wanted.subject!r}."]

    def register(self) -> Loaded:
        """Register the project's schema, or find it.

        Raises:
            ImproperlyConfigured, RegistryUnavailable: it cannot be registered.
        """
        wanted = self.wanted._replace(register=True)
        self.serializer.registry.load(wanted)
        loaded = self.serializer.registry.get(wanted)
        if loaded is None:
            raise SchemaNotFound(f"The registry does not keep {wanted.subject!r}; try again.")
        return loaded

    def diff(self) -> list[str]:
        """Return the lines that differ between the latest version of the registry and the project's schema.

        Raises:
            ImproperlyConfigured, RegistryUnavailable: as of ``wanted`` and ``latest``.
        """
        wanted, latest = self.wanted, self.latest()
        if wanted.text is None:
            return []
        registered = "registry" if latest is None else f"registry, version {latest.version_in(wanted.subject)}"
        before = "" if latest is None else _readable(latest.text)
        lines = difflib.unified_diff(
            before.splitlines(), _readable(wanted.text).splitlines(), registered, "project", lineterm="", n=2
        )
        return list(lines)


def project_schemas(event_types: list[str] | None = None) -> list[ProjectSchema]:
    """Return the schemas of the project by ``SERIALIZERS``.

    Args:
        event_types: only those of these types; None takes the types that patterns and file names tell.

    Raises:
        ImproperlyConfigured: ``SERIALIZERS`` is invalid, or a type has no serializer.
    """
    serializers = current_serializers()
    found: dict[str, ProjectSchema] = {}
    for event_type in [*_known_types()] if event_types is None else event_types:
        topic = _topic_of(event_type)
        serializer = serializers.find(event_type, topic)
        if isinstance(serializer, RegistrySerializer):
            found[event_type] = ProjectSchema(event_type, topic, serializer)
        elif event_types is not None:
            raise ImproperlyConfigured(
                f'No pattern of OUTBOX["SERIALIZERS"] matches {event_type!r}: it is sent as JSON.'
            )
    return list(found.values())


def _known_types() -> Iterator[str]:
    """Event types as far as settings and names of files show them; a pattern if they do not."""
    for pattern, serializer in current_serializers().all().items():
        path = serializer.path if isinstance(serializer, RegistrySerializer) else ""
        if re.search(r"[*?[]", pattern) and "{event_type}" in path:
            yield from sorted(each for each in _types_of_files(path) if fnmatchcase(each, pattern))
        else:
            yield pattern


def _types_of_files(path: str) -> Iterator[str]:
    before, _, after = path.replace("{topic}", "*").partition("{event_type}")
    for file in glob(f"{before}*{after}"):  # noqa: PTH207  # the pattern is a whole path
        found = re.fullmatch(_regex_of(before) + "(.+?)" + _regex_of(after), file)
        if found:
            yield found[1]


def _regex_of(part: str) -> str:
    return ".*".join(map(re.escape, part.split("*")))


def _topic_of(event_type: str) -> str:
    routes = settings.routes.items()
    return next((topic for pattern, topic in routes if fnmatchcase(event_type, pattern)), settings.topic)


def _readable(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2)
    except ValueError:
        return text
