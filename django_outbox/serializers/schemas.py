"""What the serializers of all formats share: which schema a message has, and the registry's wire format.

A value is a byte 0, the id of the schema in four bytes, and the data. An id is unique in one registry.
"""

from __future__ import annotations

import struct
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, Protocol, TypeVar

from django.core.exceptions import ImproperlyConfigured

from django_outbox.exceptions import InvalidMessage, RegistryUnavailable, SchemaNotFound, UnreadableRecord, text_of
from django_outbox.serializers.base import Decoded, NotLoaded, Serializer
from django_outbox.serializers.lookups import ById, ByText, Latest, Loaded, Wanted
from django_outbox.serializers.registry import Registry

_FRAME = struct.Struct(">bI")
_LARGEST_ID = 2**31 - 1
_TOO_DEEP = "it is nested too deeply"
Result = TypeVar("Result")
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

    format: ClassVar[str]
    """The registry's name of the format."""

    def __init__(self, *, registry: Mapping[str, Any], subject: str, auto_register: bool) -> None:
        """
        Args:
            registry: options of ``confluent_kafka``'s ``SchemaRegistryClient``: at least its ``url``.
            subject: under which the schema is registered, with ``{topic}``, ``{event_type}``, and ``{record}`` for
                the full name of the record in the project's schema.
            auto_register: whether the relay registers the project's schema.

        Raises:
            ImproperlyConfigured: an option is invalid.
        """
        if not isinstance(registry, Mapping) or not registry.get("url"):
            raise ImproperlyConfigured('registry must be a dict with the "url" of a schema registry.')
        self.registry = registry_of(registry)
        self.subject = subject
        """As the option."""
        self._auto_register = auto_register
        self._wanted: dict[tuple[str, str], ByText | Latest] = {}
        self._codecs: dict[tuple[str, References], Codec | str] = {}
        try:
            subject.format(topic="topic", event_type="type", record="record")
        except (LookupError, ValueError, AttributeError):
            raise ImproperlyConfigured("subject may name {topic}, {event_type} and {record}.") from None

    @abstractmethod
    def local_text(self, event_type: str, topic: str) -> str | None:
        """Return the text of the project's schema; None if the registry has it.

        Raises:
            ImproperlyConfigured: it cannot be read.
        """

    @abstractmethod
    def make_codec(self, text: str, references: References) -> Codec:
        """Return the codec for a schema.

        Raises:
            Exception: the schema is not valid; its text says why.
        """

    def readable(self, text: str) -> str:
        """Return the text of a schema in lines that can be compared.

        Raises:
            SchemaNotFound: the registry has it in another form than the project.
        """
        return text

    def wanted(self, event_type: str, topic: str) -> ByText | Latest:
        """Return which schema the messages of a type are written with.

        Raises:
            ImproperlyConfigured: the file cannot be read, or is not a valid schema.
        """
        wanted = self._wanted.get((event_type, topic))
        if wanted is None:
            text = self.local_text(event_type, topic)
            record = "" if text is None else self.codec(text, (), self.name_of_local(event_type, topic)).name
            if text is not None and not record and "{record}" in self.subject:
                raise ImproperlyConfigured(
                    f"{self.name_of_local(event_type, topic)} names no record for {{record}} in subject: it needs a name "
                    "(Avro) or a title (JSON Schema), or subject must not use {record}."
                )
            subject = self.subject.format(topic=topic, event_type=event_type, record=record)
            if text is None:
                wanted = Latest(self.format, subject)
            else:
                wanted = ByText(self.format, subject, text, self._auto_register)
            self._wanted[event_type, topic] = wanted
        return wanted

    @abstractmethod
    def name_of_local(self, event_type: str, topic: str) -> str:
        """Return how errors name the project's schema."""

    def validate(self, payload: Any, event_type: str, topic: str) -> None:
        wanted = self.wanted(event_type, topic)
        if isinstance(wanted, ByText):
            _applied(self.codec(wanted.text, (), self.name_of_local(event_type, topic)).validate, payload)
            return
        # It may be registered, or corrected, before the relay sends the message.
        with suppress(SchemaNotFound, RegistryUnavailable):
            loaded = self.registry.get(wanted)
            if loaded is None:
                self.registry.load_in_background(wanted)
                return
            try:
                _applied(self._codec_of(loaded).validate, payload)
            except InvalidMessage:
                if not self.registry.may_be_outdated(wanted):
                    raise
                self.registry.load_in_background(wanted)

    def serialize(self, payload_json: str, event_type: str, topic: str) -> bytes:
        wanted = self.wanted(event_type, topic)
        loaded = self._loaded(wanted)
        try:
            return _FRAME.pack(0, loaded.id) + _applied(self._codec_of(loaded).encode, payload_json)
        except (InvalidMessage, SchemaNotFound):
            if not self.registry.may_be_outdated(wanted):
                raise
            self.registry.require_answers(wanted)
            raise self._not_loaded(wanted) from None

    def deserialize(self, data: bytes, event_type: str, topic: str) -> Decoded:
        if len(data) < _FRAME.size or data[0]:
            raise UnreadableRecord("its value does not begin with a byte 0 and the id of a schema")
        try:
            _, schema_id = _FRAME.unpack_from(data)
            if not 0 < schema_id <= _LARGEST_ID:  # registries answer to such an id as to a wrong URL
                raise SchemaNotFound(f"No registry has a schema {schema_id}.")
            loaded = self._loaded(ById(self.format, schema_id))
            if loaded.format != self.format:
                raise SchemaNotFound(
                    f"Schema {loaded.id} is {loaded.format}, but {event_type!r} is read as {self.format}."
                )
            codec = self._codec_of(loaded)
        except ImproperlyConfigured as error:
            raise UnreadableRecord(text_of(error)) from None
        reason = f"its value cannot be read with schema {loaded.id}"
        try:
            payload = codec.decode(data[_FRAME.size :])
        except ValueError as error:
            raise UnreadableRecord(f"{reason}: {text_of(error)}") from None
        except RecursionError:
            raise UnreadableRecord(f"{reason}: {_TOO_DEEP}") from None
        except Exception as error:  # its text may show data
            raise UnreadableRecord(f"{reason} ({type(error).__name__})") from None
        headers = {"schema_id": str(loaded.id)}
        subject = self.subject.format(topic=topic, event_type=event_type, record=codec.name)
        if (version := loaded.version_in(subject)) is not None:
            headers["schema_version"] = str(version)
        return Decoded(payload, headers)

    def _loaded(self, wanted: Wanted) -> Loaded:
        loaded = self.registry.get(wanted)
        if loaded is None:
            raise self._not_loaded(wanted)
        return loaded

    def _not_loaded(self, wanted: Wanted) -> NotLoaded:
        return NotLoaded((self.registry.url, wanted), partial(self.registry.load, wanted))

    def _codec_of(self, loaded: Loaded) -> Codec:
        return self.codec(loaded.text, loaded.references, f"schema {loaded.id} of the registry")

    def codec(self, text: str, references: References, where: str) -> Codec:
        """Return the codec for a schema, made once. ``where`` names it in errors.

        Raises:
            SchemaNotFound: it is not valid.
        """
        codec = self._codecs.get((text, references))
        if codec is None:
            try:
                codec = self.make_codec(text, references)
            except Exception as error:
                codec = text_of(error)[:500]
            self._codecs[text, references] = codec
        if isinstance(codec, str):
            raise SchemaNotFound(f"{where} is not a valid {self.format} schema: {codec}.")
        return codec


def _applied(write: Callable[[Any], Result], payload: Any) -> Result:
    """Apply a codec. A payload that a library cannot write is invalid; the texts of their many errors show values."""
    try:
        return write(payload)
    except (InvalidMessage, ImproperlyConfigured):
        raise
    except RecursionError:  # publish() limits the depth, but some libraries need many calls for each level
        raise InvalidMessage("payload", _TOO_DEEP) from None
    except Exception as error:
        raise InvalidMessage("payload", f"it cannot be written ({type(error).__name__})") from None


_registries: dict[str, Registry] = {}


def registry_of(options: Mapping[str, Any]) -> Registry:
    """Return the registry with these options; all serializers that name it share its connection and its schemas.

    Raises:
        ImproperlyConfigured: the client refuses the options.
    """
    key = repr(sorted(options.items(), key=str))
    if (known := _registries.get(key)) is not None:
        return known
    made = Registry(options)
    kept = _registries.setdefault(key, made)
    if kept is not made:  # another thread was faster
        made.close()
    return kept


def close_registries() -> None:
    """Close the connections to all registries, and forget what was loaded from them."""
    while _registries:
        _registries.popitem()[1].close()
