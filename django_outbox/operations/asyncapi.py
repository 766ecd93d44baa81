"""The AsyncAPI document of a project: what it publishes and handles, as far as the code says so."""

from __future__ import annotations

import json
import re
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from django_outbox.brokers.url import parse_url
from django_outbox.conf import settings
from django_outbox.events.declared import EventType, event_types
from django_outbox.events.payloads import RawBytes
from django_outbox.events.writer import JSON
from django_outbox.handlers.registry import registry
from django_outbox.serializers.configured import current_serializers

VERSION = "3.0.0"
BINDING = "0.5.0"
"""The version of AsyncAPI's bindings for Kafka."""
BYTES = "application/octet-stream"
"""The content type of declared bytes, unless ``publish()`` names another."""

_UNSAFE = re.compile(r"[^\w.-]", re.ASCII)
_DRAFT = re.compile(r"draft-0\d|20\d\d-\d\d")
_SECURITY = {
    "PLAIN": "plain",
    "SCRAM-SHA-256": "scramSha256",
    "SCRAM-SHA-512": "scramSha512",
    "GSSAPI": "gssapi",
}
_AVRO = "application/vnd.apache.avro+json;version=1.9.0"
_JSON_SCHEMA = "application/schema+json;version="

Object = dict[str, Any]
_OUTBOX_HEADERS: Object = {"ce_outboxid": {"type": "string"}, "ce_outboxattempt": {"type": "string"}}


def asyncapi_document(api_version: str) -> Object:
    """Return the document.

    A declared type is sent, unless it is declared with the source of another service. Types with handlers are
    received. Published types that are not declared are unknown.

    Raises:
        HandlersNotImportable: handlers cannot be imported.
        ImproperlyConfigured: a setting, serializer or declared type cannot be used.
    """
    registry.load()
    return _Document().made(api_version)


class _Document:
    def __init__(self) -> None:
        self._channels: dict[str, Object] = {}
        self._operations: dict[str, Object] = {}
        self._messages: dict[str, Object] = {}
        self._schemas: dict[str, Object] = {}
        self._keys: dict[tuple[str, str], object] = {}

    def made(self, api_version: str) -> Object:
        versions: dict[str, list[EventType]] = {}
        for each in event_types.all():
            versions.setdefault(each.name, []).append(each)
            if each.is_own:
                self._add("send", "", settings.topic_of(each.name), each.name, each)
        for group, handler in registry.of_all_groups():
            if handler.is_task:
                continue
            topic = handler.topic or settings.topic_of(handler.event_type)
            for declared in versions.get(handler.event_type, [None]):
                self._add("receive", group, topic, handler.event_type, declared)
        return {
            "asyncapi": VERSION,
            "info": {
                "title": settings.source,
                "version": api_version,
                "description": "A record without a value is a tombstone: it deletes earlier records of its key.",
            },
            "defaultContentType": JSON,
            "servers": _servers(),
            "channels": self._channels,
            "operations": self._operations,
            "components": {"messages": self._messages, "schemas": self._schemas},
        }

    def _add(self, action: str, group: str, topic: str, name: str, declared: EventType | None) -> None:
        message = self._message(name, topic, declared)
        channel = self._key("channel", topic)
        messages = self._channels.setdefault(channel, {"address": topic, "messages": {}})["messages"]
        messages[message] = {"$ref": f"#/components/messages/{message}"}
        key = self._key("operation", action, group, topic)
        operation = self._operations.get(key)
        if operation is None:
            operation = {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, "messages": []}
            if group:
                reader = {"groupId": {"type": "string", "enum": [group]}, "bindingVersion": BINDING}
                operation["bindings"] = {"kafka": reader}
            self._operations[key] = operation
        reference = {"$ref": f"#/channels/{channel}/messages/{message}"}
        if reference not in operation["messages"]:
            operation["messages"].append(reference)

    def _key(self, kind: str, *names: str, title: str = "") -> str:
        """Return a key for something: its names, with what AsyncAPI's keys cannot contain replaced.

        Args:
            title: distinguishes things whose names are equal.
        """
        safe = key = _UNSAFE.sub("-", ".".join(filter(None, names)))
        number = 2
        while self._keys.setdefault((kind, key), (names, title)) != (names, title):
            key, number = f"{safe}-{number}", number + 1
        return key

    def _message(self, name: str, topic: str, declared: EventType | None) -> str:
        title = _title(name, declared)
        key = self._key("message", name, "" if declared is None else declared.version, title=title)
        if key in self._messages:
            return key
        message: Object = {
            "name": name,
            "title": title,
            "bindings": {"kafka": {"key": {"type": "string"}, "bindingVersion": BINDING}},
        }
        self._messages[key] = message
        is_own = declared is not None and declared.is_own
        if not is_own and settings.inbox.get(topic):
            message["description"] = (
                "A mapper makes it from the records of the topic, whose format is not described here."
            )
            return key
        if declared is not None and declared.payload_type is RawBytes:  # never serialized
            message["contentType"] = BYTES
            message["headers"] = _headers(name, declared)
            return key
        content_type, schema = _on_the_wire(key, name, topic, is_own)
        message["contentType"] = content_type or JSON
        if schema is None and declared is not None:
            schema = self._schema(key, declared)
        if content_type is None and settings.wire_format == "envelope" and (is_own or declared is None):
            if declared is not None:
                message["headers"] = _envelope_headers()
                message["payload"] = _envelope(declared, schema)
            return key  # without a declaration, it may be an envelope of this project or an event of another service
        message["headers"] = _headers(name, declared)
        if schema is not None:
            message["payload"] = schema
        return key

    def _schema(self, key: str, declared: EventType) -> Object | None:
        """Return a reference to the schema of a declared type; None if it has none."""
        schema = declared.payload.json_schema(f"#/components/schemas/{key}.{{model}}")
        if schema is None:
            return None
        for model, each in schema.pop("$defs", {}).items():
            self._schemas[f"{key}.{model}"] = each
        self._schemas[key] = schema
        return {"$ref": f"#/components/schemas/{key}"}


def _title(name: str, declared: EventType | None) -> str:
    if declared is None:
        return name
    return f"{name} {declared.version}" + ("" if declared.is_own else f" of {declared.source}")


def _on_the_wire(key: str, name: str, topic: str, is_own: bool) -> tuple[str | None, Object | None]:
    """Return the content type of a type's serializer, and the project's Avro or JSON Schema.

    Both are None without a serializer, the schema also if only the registry has it, and for Protobuf.
    """
    from django_outbox.serializers.schemas import RegistrySerializer

    serializer = current_serializers().find(name, topic)
    if serializer is None:
        return None, None
    if not isinstance(serializer, RegistrySerializer) or serializer.format not in ("AVRO", "JSON"):
        return serializer.content_type, None
    try:
        text = serializer.local_text(name, topic)
    except ImproperlyConfigured:
        if is_own:
            raise
        return None, None  # events of another service that a pattern happens to match
    if text is None:
        return serializer.content_type, None
    serializer.codec(text, (), serializer.name_of_local(name, topic))  # or it is not valid
    schema = json.loads(text)
    if serializer.format == "AVRO":
        return serializer.content_type, {"schemaFormat": _AVRO, "schema": schema}
    draft = None
    if isinstance(schema, dict):
        draft = _DRAFT.search(str(schema.get("$schema")))
        schema.pop("$id", None)  # the base of its references, which now is the document
    return serializer.content_type, {
        "schemaFormat": _JSON_SCHEMA + (draft[0] if draft else "draft-07"),
        "schema": _moved(schema, f"#/components/messages/{key}/payload/schema"),
    }


def _moved(schema: Any, place: str) -> Any:
    """Return a JSON Schema whose references lead to the same as before, although it is within another document now."""
    if isinstance(schema, list):
        return [_moved(each, place) for each in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {name: _moved(each, place) for name, each in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        moved["$ref"] = place + reference[1:]
    return moved


def _headers(name: str, declared: EventType | None) -> Object:
    """Return the schema of the headers, which are those of CloudEvents. Own events have all but the key."""
    properties: Object = {
        "ce_specversion": {"const": "1.0"},
        "ce_type": {"const": name},
        "ce_source": {"type": "string"},
        "ce_id": {"type": "string"},
        "ce_time": {"type": "string", "format": "date-time"},
        "ce_eventversion": {"type": "string"},
    }
    required = ["ce_specversion", "ce_type", "ce_source", "ce_id"]
    if declared is not None:
        properties["ce_source"] = {"const": declared.source or settings.source}
        properties["ce_eventversion"] = {"const": declared.version}
        if declared.is_own:
            properties |= _OUTBOX_HEADERS
            required = list(properties)
    properties["ce_subject"] = {"type": "string"}
    return {"type": "object", "properties": properties, "required": required}


def _envelope_headers() -> Object:
    properties = {"ce_source": {"const": settings.source}, **_OUTBOX_HEADERS}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _envelope(declared: EventType, payload: Object | None) -> Object:
    properties = {
        "outbox_id": {"type": "integer"},
        "event_id": {"type": "string", "format": "uuid"},
        "event_type": {"const": declared.name},
        "event_version": {"const": declared.version},
        "aggregate_id": {"type": "string"},
        "payload": {} if payload is None else payload,
    }
    return {"type": "object", "properties": properties, "required": list(properties)}


def _servers() -> dict[str, Object]:
    """Return the servers of the settings, without users and passwords; none for a broker without an address."""
    given = settings.broker
    try:
        url = parse_url(given.url)
    except ImproperlyConfigured:  # of a broker class with its own URLs, such as MemoryBroker
        return {}
    options = {**url.options, **given.options, **given.producer_options}
    protocol = str(_option(options, "security", "protocol") or url.protocol).upper()
    security: list[Object] = []
    if "SASL" in protocol:
        kind = _SECURITY.get(str(_option(options, "sasl", "mechanism") or "PLAIN").upper())
        security = [{"type": kind}] if kind else []
    secure = protocol in ("SSL", "SASL_SSL")
    return {
        "kafka" if number == 1 else f"kafka-{number}": {
            "host": host,
            "protocol": "kafka-secure" if secure else "kafka",
            **({"security": security} if security else {}),
        }
        for number, host in enumerate(url.hosts, start=1)
    }


def _option(options: Object, *words: str) -> Any:
    """Return an option of either client: ``sasl_mechanism`` or ``sasl.mechanism``."""
    return options.get("_".join(words)) or options.get(".".join(words))
