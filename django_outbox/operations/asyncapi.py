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
from django_outbox.serializers.base import Serializer
from django_outbox.serializers.configured import current_serializers

VERSION = "3.0.0"
BINDING = "0.5.0"
"""The version of AsyncAPI's bindings for Kafka."""

_UNSAFE = re.compile(r"[^\w.-]", re.ASCII)
_SECURITY = {
    "PLAIN": "plain",
    "SCRAM-SHA-256": "scramSha256",
    "SCRAM-SHA-512": "scramSha512",
    "GSSAPI": "gssapi",
}
_FORMATS = {
    "AVRO": "application/vnd.apache.avro+json;version=1.9.0",
    "JSON": "application/schema+json;version=draft-07",
}

Object = dict[str, Any]


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
        for each in event_types.all():
            if _is_own(each):
                self._add("send", "", settings.topic_of(each.name), each.name, each)
        for group in registry.groups:
            for handler in registry.for_group(group):
                topic = handler.topic or settings.topic_of(handler.event_type)
                versions: list[EventType | None] = [
                    each for each in event_types.all() if each.name == handler.event_type
                ]
                for declared in versions or [None]:
                    self._add("receive", group, topic, handler.event_type, declared)
        return {
            "asyncapi": VERSION,
            "info": {"title": settings.source, "version": api_version},
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

    def _key(self, kind: str, *names: str) -> str:
        """Return a key for something: its names, with what AsyncAPI's keys cannot contain replaced."""
        safe = key = _UNSAFE.sub("-", ".".join(filter(None, names)))
        number = 2
        while self._keys.setdefault((kind, key), names) != names:
            key, number = f"{safe}-{number}", number + 1
        return key

    def _message(self, name: str, topic: str, declared: EventType | None) -> str:
        key = self._key("message", name, "" if declared is None else declared.version)
        if key in self._messages:
            return key
        message: Object = {"name": name, "bindings": {"kafka": {"key": {"type": "string"}, "bindingVersion": BINDING}}}
        self._messages[key] = message
        is_own = declared is not None and _is_own(declared)
        if not is_own and settings.inbox.get(topic):
            message["description"] = (
                "A mapper makes it from the records of the topic, whose format is not described here."
            )
            return key
        serializer = current_serializers().find(name, topic)
        schema = None if declared is None else self._schema(key, declared)
        if serializer is not None:
            message["contentType"] = serializer.content_type
            schema = _schema_on_the_wire(serializer, name, topic) or schema
        elif declared is not None and declared.payload_type is RawBytes:
            message["contentType"] = "application/octet-stream"  # unless publish() names another
        else:
            message["contentType"] = JSON
        if is_own and serializer is None and schema is not None and settings.wire_format == "envelope":
            schema = _envelope(declared, schema)
        else:
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


def _is_own(declared: EventType) -> bool:
    """True if this project publishes it."""
    return declared.source in (None, settings.source)


def _schema_on_the_wire(serializer: Serializer, name: str, topic: str) -> Object | None:
    """Return the project's Avro or JSON Schema of a type; None if only the registry has it, and for Protobuf."""
    from django_outbox.serializers.schemas import RegistrySerializer

    if not isinstance(serializer, RegistrySerializer) or serializer.kind not in _FORMATS:
        return None
    text = serializer.local_text(name, topic)
    return None if text is None else {"schemaFormat": _FORMATS[serializer.kind], "schema": json.loads(text)}


def _headers(name: str, declared: EventType | None) -> Object:
    """Return the schema of the headers, which are those of CloudEvents."""
    properties: Object = {
        "ce_specversion": {"const": "1.0"},
        "ce_type": {"const": name},
        "ce_source": {"type": "string"},
        "ce_id": {"type": "string"},
        "ce_time": {"type": "string", "format": "date-time"},
        "ce_subject": {"type": "string"},
        "ce_eventversion": {"type": "string"},
    }
    if declared is not None:
        properties["ce_source"] = {"const": declared.source or settings.source}
        properties["ce_eventversion"] = {"const": declared.version}
    required = ["ce_specversion", "ce_type", "ce_source", "ce_id"]
    return {"type": "object", "properties": properties, "required": required}


def _envelope(declared: EventType | None, payload: Object) -> Object:
    assert declared is not None
    properties = {
        "outbox_id": {"type": "integer"},
        "event_id": {"type": "string", "format": "uuid"},
        "event_type": {"const": declared.name},
        "event_version": {"const": declared.version},
        "aggregate_id": {"type": "string"},
        "payload": payload,
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
