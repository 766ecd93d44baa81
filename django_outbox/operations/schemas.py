"""The schemas of a project, compared with those of the registry."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import escape, glob

from django.core.exceptions import ImproperlyConfigured

from django_outbox.conf import settings
from django_outbox.exceptions import SchemaNotFound
from django_outbox.serializers.configured import current_serializers
from django_outbox.serializers.files import FileSerializer
from django_outbox.serializers.lookups import ByText, Latest, Loaded
from django_outbox.serializers.schemas import RegistrySerializer

_WILDCARD = re.compile(r"[*?[]")


@dataclass(frozen=True, slots=True)
class ProjectSchema:
    """The schema of the events of a type, or of all types that a pattern of ``SERIALIZERS`` matches."""

    event_type: str
    topic: str
    serializer: RegistrySerializer
    unknown: str = ""
    """Why it cannot be told which schema it is."""

    @property
    def wanted(self) -> ByText | Latest:
        """
        Raises:
            ImproperlyConfigured: it is unknown, or its file cannot be read or is not a schema.
        """
        if self.unknown:
            raise ImproperlyConfigured(self.unknown)
        return self.serializer.wanted(self.event_type, self.topic)

    def latest(self) -> Loaded | None:
        """Return the latest version in the registry; None if the subject does not exist.

        Raises:
            RegistryUnavailable: the registry cannot be asked.
        """
        wanted = Latest(self.serializer.format, self.wanted.subject)
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
        if isinstance(wanted, ByText):
            reasons = self.serializer.registry.incompatibilities(wanted)
            return [f"The registry does not accept it: {each}" for each in reasons]
        if self.latest() is not None:
            return []
        return [f"The registry has no subject {wanted.subject!r}, and the project no schema for it."]

    def register(self) -> Loaded | None:
        """Register the project's schema, or find it. Returns None if the project has none.

        Raises:
            ImproperlyConfigured, RegistryUnavailable: it cannot be registered.
        """
        wanted = self.wanted
        if isinstance(wanted, Latest):
            return None
        wanted = wanted._replace(register=True)
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
        if isinstance(wanted, Latest):
            return []
        registered = "registry" if latest is None else f"registry, version {latest.version_in(wanted.subject)}"
        before = "" if latest is None else self.serializer.readable(latest.text)
        lines = difflib.unified_diff(
            before.splitlines(),
            self.serializer.readable(wanted.text).splitlines(),
            registered,
            "project",
            lineterm="",
            n=2,
        )
        return list(lines)


def project_schemas(event_types: list[str] | None = None) -> list[ProjectSchema]:
    """Return the schemas of the project by ``SERIALIZERS``.

    Args:
        event_types: only those of these types; None takes the types that patterns and file names tell.

    Raises:
        ImproperlyConfigured: ``SERIALIZERS`` is invalid, or a type has no schema of a registry.
    """
    if event_types is not None:
        return [_schema_of(event_type) for event_type in dict.fromkeys(event_types)]
    found: dict[str, ProjectSchema] = {}
    for pattern, serializer in current_serializers().all().items():
        if isinstance(serializer, RegistrySerializer):
            for schema in _schemas_of(pattern, serializer):
                found.setdefault(schema.event_type, schema)
    return list(found.values())


def _schema_of(event_type: str) -> ProjectSchema:
    topic = settings.topic_of(event_type)
    serializer = current_serializers().find(event_type, topic)
    if serializer is None:
        raise ImproperlyConfigured(f'No pattern of OUTBOX["SERIALIZERS"] matches {event_type!r}: it is sent as JSON.')
    if not isinstance(serializer, RegistrySerializer):
        name = type(serializer).__qualname__
        raise ImproperlyConfigured(f"The serializer of {event_type!r}, {name}, does not use a schema registry.")
    return ProjectSchema(event_type, topic, serializer)


def _schemas_of(pattern: str, serializer: RegistrySerializer) -> Iterator[ProjectSchema]:
    """The schemas of a pattern, as far as settings and names of files show them."""
    path = serializer.path if isinstance(serializer, FileSerializer) else ""
    if not _WILDCARD.search(pattern):
        yield ProjectSchema(pattern, settings.topic_of(pattern), serializer)
    elif "{event_type}" in path:
        types = sorted(each for each in _types_of_files(path) if fnmatchcase(each, pattern))
        for event_type in types:
            topic = settings.topic_of(event_type)
            if current_serializers().find(event_type, topic) is serializer:
                yield ProjectSchema(event_type, topic, serializer)
        if not types:
            reason = f"No file {path} exists for an event type of this pattern."
            yield ProjectSchema(pattern, settings.topic, serializer, reason)
    else:
        topics = _topics_of(pattern)
        is_by_topic = "{topic}" in path + serializer.subject
        is_unknown = "{event_type}" in serializer.subject or (is_by_topic and len(topics) > 1)
        reason = "Its events have several subjects; name their types with --event-type." if is_unknown else ""
        yield ProjectSchema(pattern, min(topics), serializer, reason)


def _types_of_files(path: str) -> Iterator[str]:
    regex = re.escape(path).replace(re.escape("{topic}"), "[^/]*")
    regex = regex.replace(re.escape("{event_type}"), "(?P<type>[^/]+)", 1).replace(
        re.escape("{event_type}"), "(?P=type)"
    )
    for file in glob(escape(path).replace("{topic}", "*").replace("{event_type}", "*")):  # noqa: PTH207  # a whole path
        if found := re.fullmatch(regex, file):
            yield found["type"]


def _topics_of(pattern: str) -> set[str]:
    """The topics that events of a pattern may have by ``ROUTES`` and ``TOPIC``."""
    topics: set[str] = set()
    start = _WILDCARD.split(pattern)[0]
    for route, topic in settings.routes.items():
        route_start = _WILDCARD.split(route)[0]
        if route_start == route:
            if fnmatchcase(route, pattern):
                topics.add(topic)
        elif route_start.startswith(start) or start.startswith(route_start):
            topics.add(topic)
            if route == pattern or (route == f"{route_start}*" and start.startswith(route_start)):
                return topics  # it takes all of them
    return topics | {settings.topic}
