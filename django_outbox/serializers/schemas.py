"""What the serializers of all formats share: which schema a message has, and the registry's wire format.

A value is a byte 0, the id of the schema in four bytes, and the data. An id is unique in one registry.
"""

from __future__ import annotations

import struct
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

from django.core.exceptions import ImproperlyConfigured

from django_outbox.exceptions import InvalidMessage, RegistryUnavailable, SchemaNotFound, UnreadableRecord, text_of
from django_outbox.serializers.base import Decoded, NotLoaded, Serializer
from django_outbox.serializers.registry import Loaded, Registry, Wanted

_FRAME = struct.Struct(">bI")
_LARGEST_ID = 2**31 - 1
_TOO_DEEP = "it is nested too deeply"
References = tuple[tuple[str, str], ...]


class Codec(Protocol):
    """Writes and reads data by one schema."""

    name: str
    """The full name of its record or message; "" if it has none."""

    def validate(self, payload: Any) -> None:
        """
        Raises:
            InvalidMessage: the payload, as JSON returns it, does not fit.
        """

    def encode(self, payload_json: str) -> bytes:
        """
        Raises:
            InvalidMessage: the payload does not fit.
        """

    def decode(self, data: bytes) -> Any:
        """Return the payload, as JSON returns it.

        Raises:
            ValueError: with the reason, which does not show the data.
        """


class RegistrySerializer(Serializer):
    """Writes and reads payloads with schemas of a registry."""

    kind: ClassVar[str]
    """The registry's name of the format."""

    def __init__(
        self,
        *,
        registry: Mapping[str, Any],
        schema: str | Path | None = None,
        subject: str = "{topic}-value",
        auto_register: bool = False,
    ) -> None:
        """
        Args:
            registry: options of ``confluent_kafka``'s ``SchemaRegistryClient``: at least its ``url``.
            schema: file of the project with the schema to write with; None takes the latest version of the subject.
                ``{event_type}`` and ``{topic}`` in its path are replaced.
            subject: under which the schema is registered, with ``{topic}``, ``{event_type}``, and ``{record}`` for
                the full name of the record in ``schema``.
            auto_register: whether the relay registers ``schema``.

        Raises:
            ImproperlyConfigured: an option is invalid.
        """
        if not isinstance(registry, Mapping) or not registry.get("url"):
            raise ImproperlyConfigured('registry must be a dict with the "url" of a schema registry.')
        self.registry = registry_of(registry)
        self.path = "" if schema is None else str(schema)
        """Of the project's schema, with ``{event_type}`` and ``{topic}``; "" if the registry has it."""
        self.subject = subject
        """As the option."""
        self._auto_register = auto_register
        self._wanted: dict[tuple[str, str], Wanted] = {}
        self._codecs: dict[tuple[str, References], Codec] = {}
        try:
            subject.format(topic="topic", event_type="type", record="record")
            self.path.format(topic="topic", event_type="type")
        except (LookupError, ValueError, AttributeError):
            raise ImproperlyConfigured(
                "subject may name {topic}, {event_type} and {record}, and schema {topic} and {event_type}."
            ) from None
        if schema is None and (auto_register or "{record}" in subject):
            raise ImproperlyConfigured("auto_register, and {record} in subject, need a file as schema.")

    @abstractmethod
    def make_codec(self, text: str, references: References) -> Codec:
        """Return the codec for a schema.

        Raises:
            Exception: the schema is not valid; its text says why.
        """

    def check(self) -> None:
        if "{" not in self.path:
            self.wanted("", "")

    def broken_readers(self, latest: Loaded, text: str) -> list[str]:
        """Return which fields of the project's schema break which readers, as far as the format lets this be told."""
        return []

    def wanted(self, event_type: str, topic: str) -> Wanted:
        """Return which schema the messages of a type are written with.

        Raises:
            ImproperlyConfigured: the file cannot be read, or is not a valid schema.
        """
        wanted = self._wanted.get((event_type, topic))
        if wanted is None:
            text = self.local_text(event_type, topic)
            record = "" if text is None else self._codec(text, (), self._file(event_type, topic)).name
            subject = self.subject.format(topic=topic, event_type=event_type, record=record)
            wanted = Wanted(self.kind, 0, subject, text, self._auto_register)
            self._wanted[event_type, topic] = wanted
        return wanted

    def local_text(self, event_type: str, topic: str) -> str | None:
        """Return the text of the project's schema; None if the registry has it.

        Raises:
            ImproperlyConfigured: the file cannot be read.
        """
        if not self.path:
            return None
        path = self._file(event_type, topic)
        try:
            return Path(path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ImproperlyConfigured(
                f"The schema {path} of {event_type!r} cannot be read: {text_of(error)}."
            ) from None

    def _file(self, event_type: str, topic: str) -> str:
        return self.path.format(event_type=event_type, topic=topic)

    def validate(self, payload: Any, event_type: str, topic: str) -> None:
        wanted = self.wanted(event_type, topic)
        if wanted.text is not None:
            _validate(self._codec(wanted.text, (), self.path), payload)
            return
        # It may be registered, or corrected, before the relay sends the message.
        with suppress(SchemaNotFound, RegistryUnavailable):
            loaded = self.registry.get(wanted)
            if loaded is None:
                self.registry.load_in_background(wanted)
            else:
                _validate(self._codec_of(loaded), payload)

    def serialize(self, payload_json: str, event_type: str, topic: str) -> bytes:
        wanted = self._wanted.get((event_type, topic)) or self.wanted(event_type, topic)
        loaded = self._loaded(wanted)
        try:
            return _FRAME.pack(0, loaded.id) + self._codec_of(loaded).encode(payload_json)
        except RecursionError:  # publish() limits the depth, but the row may have been changed
            raise InvalidMessage("payload", _TOO_DEEP) from None

    def deserialize(self, data: bytes, event_type: str, topic: str) -> Decoded:
        if len(data) < _FRAME.size or data[0]:
            raise UnreadableRecord("its value does not begin with a byte 0 and the id of a schema")
        try:
            _, schema_id = _FRAME.unpack_from(data)
            if not 0 < schema_id <= _LARGEST_ID:  # registries answer to such an id as to a wrong URL
                raise SchemaNotFound(f"No registry has a schema {schema_id}.")
            loaded = self._loaded(Wanted(self.kind, schema_id))
            if loaded.kind != self.kind:
                raise SchemaNotFound(f"Schema {loaded.id} is {loaded.kind}, but {event_type!r} is read as {self.kind}.")
            codec = self._codec_of(loaded)
        except ImproperlyConfigured as error:
            raise UnreadableRecord(text_of(error)) from None
        try:
            payload = codec.decode(data[_FRAME.size :])
        except ValueError as error:
            raise UnreadableRecord(f"its value cannot be read with schema {loaded.id}: {text_of(error)}") from None
        headers = {"schema_id": str(loaded.id)}
        subject = self.subject.format(topic=topic, event_type=event_type, record=codec.name)
        if (version := loaded.version_in(subject)) is not None:
            headers["schema_version"] = str(version)
        return Decoded(payload, headers)

    def _loaded(self, wanted: Wanted) -> Loaded:
        loaded = self.registry.get(wanted)
        if loaded is None:
            raise NotLoaded((self.registry.url, wanted), partial(self.registry.load, wanted))
        return loaded

    def _codec_of(self, loaded: Loaded) -> Codec:
        codec = self._codecs.get((loaded.text, loaded.references))
        return codec or self._codec(loaded.text, loaded.references, f"schema {loaded.id} of the registry")

    def _codec(self, text: str, references: References, where: str) -> Codec:
        codec = self._codecs.get((text, references))
        if codec is None:
            try:
                codec = self.make_codec(text, references)
            except Exception as error:
                raise SchemaNotFound(f"{where} is not a valid {self.kind} schema: {text_of(error)[:500]}.") from error
            self._codecs[text, references] = codec
        return codec


def _validate(codec: Codec, payload: Any) -> None:
    try:
        codec.validate(payload)
    except RecursionError:  # some libraries need many calls for each level
        raise InvalidMessage("payload", _TOO_DEEP) from None


_registries: dict[str, Registry] = {}


def registry_of(options: Mapping[str, Any]) -> Registry:
    """Return the registry with these options; all serializers that name it share its connection and its schemas.

    Raises:
        ImproperlyConfigured: the client refuses the options.
    """
    key = repr(sorted(options.items(), key=str))
    if key not in _registries:
        _registries[key] = Registry(options)
    return _registries[key]


def close_registries() -> None:
    """Close the connections to all registries, and forget what was loaded from them."""
    while _registries:
        _registries.popitem()[1].close()
