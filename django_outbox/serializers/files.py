"""Serializers whose schemas are files of the project."""

from __future__ import annotations

import json
from collections.abc import Mapping
from glob import escape, glob
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from django_outbox.exceptions import text_of
from django_outbox.serializers.schemas import RegistrySerializer


class FileSerializer(RegistrySerializer):
    """Takes the project's schemas from files."""

    def __init__(
        self,
        *,
        registry: Mapping[str, Any],
        schema: str | Path | None = None,
        subject: str | None = None,
        auto_register: bool = False,
    ) -> None:
        """
        Args:
            schema: file of the project with the schema to write with; None takes the latest version of the subject.
                ``{event_type}`` and ``{topic}`` in its path are replaced.
            registry, subject, auto_register: see ``RegistrySerializer``. The default of ``subject`` is
                ``"{topic}-{record}"`` if the path has ``{event_type}``, as one subject cannot hold the schemas of
                several types; else ``"{topic}-value"``.

        Raises:
            ImproperlyConfigured: an option is invalid.
        """
        self.path = "" if schema is None else str(schema)
        """Of the project's schema, with ``{event_type}`` and ``{topic}``; "" if the registry has it."""
        if subject is None:
            subject = "{topic}-{record}" if "{event_type}" in self.path else "{topic}-value"
        super().__init__(registry=registry, subject=subject, auto_register=auto_register)
        try:
            self.path.format(topic="topic", event_type="type")
        except (LookupError, ValueError, AttributeError):
            raise ImproperlyConfigured("schema may name {topic} and {event_type}.") from None
        if schema is None and (auto_register or "{record}" in subject):
            raise ImproperlyConfigured("auto_register, and {record} in subject, need a file as schema.")

    def check(self) -> None:
        if "{" not in self.path:
            self.wanted("", "")
            return
        for path in sorted(glob(escape(self.path).format(event_type="*", topic="*"))):  # noqa: PTH207  # a whole path
            self.codec(_read(path), (), path)

    def local_text(self, event_type: str, topic: str) -> str | None:
        return _read(self.name_of_local(event_type, topic), f" of {event_type!r}") if self.path else None

    def readable(self, text: str) -> str:
        try:
            return json.dumps(json.loads(text), indent=2)
        except ValueError:
            return text

    def name_of_local(self, event_type: str, topic: str) -> str:
        return self.path.format(event_type=event_type, topic=topic)


def _read(path: str, whose: str = "") -> str:
    try:
        return Path(path).read_text("utf-8")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path with a byte 0
        raise ImproperlyConfigured(f"The schema {path}{whose} cannot be read: {text_of(error)}.") from None
