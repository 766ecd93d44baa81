"""Changes between two AsyncAPI documents that break those who read the events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from django_outbox.operations.asyncapi import BYTES
from django_outbox.operations.schema_changes import broken_reads, resolved

Object = dict[str, Any]


class Message(NamedTuple):
    """A message of a document.

    Attributes:
        name: its event type.
        title: its event type and version. Keys may move, if names differ only in what keys cannot contain.
    """

    name: str
    title: str
    content: Object
    document: Object

    @property
    def version(self) -> str:
        return self.title.removeprefix(self.name).strip()

    @property
    def content_type(self) -> str | None:
        return self.content.get("contentType")

    @property
    def is_envelope(self) -> bool:
        payload = self.content.get("payload")
        return payload is not None and "$ref" not in payload and "schemaFormat" not in payload

    @property
    def schema(self) -> Object | None:
        """The schema of the payload, also in an envelope."""
        payload: Object | None = self.content.get("payload")
        return payload["properties"]["payload"] if payload is not None and self.is_envelope else payload


class Events:
    """The events in a document."""

    def __init__(self, document: Object) -> None:
        """
        Raises:
            ValueError, LookupError, TypeError, AttributeError: this is not a document of ``outbox_asyncapi``.
        """
        if not document["asyncapi"].startswith("3."):
            raise ValueError("It is not AsyncAPI 3.")
        self.sent: dict[tuple[str, str], Message] = {}
        """By topic and title."""
        self.received: dict[str, Message] = {}
        """By title."""
        for operation in document["operations"].values():
            topic = resolved(operation["channel"], document)["address"]
            for reference in operation["messages"]:
                content = resolved(reference, document)
                message = Message(content["name"], content["title"], content, document)
                if operation["action"] == "send":
                    self.sent[topic, message.title] = message
                else:
                    self.received[message.title] = message

    def all(self) -> dict[str, Message]:
        return self.received | {title: message for (_, title), message in self.sent.items()}


def breaking_changes(old: Events, new: Events) -> list[str]:
    """Return what consumers by the old document cannot read any more, and what the new handlers cannot.

    Sent events must be readable with the old document. Events that were sent before are still in outboxes and Kafka, so
    they must be readable by the handlers of the new one.
    """
    return [*_for_consumers(old, new), *_for_handlers(old, new)]


def _for_consumers(old: Events, new: Events) -> Iterator[str]:
    for (topic, title), before in old.sent.items():
        now = new.sent.get((topic, title))
        topics = [each for each, other in new.sent if other == title]
        if now is not None:
            reasons = _unreadable(now, before)
        elif topics:
            reasons = [f"it is no longer sent to {topic}, but to {', '.join(topics)}"]
        else:
            reasons = [f"it is no longer declared (it was sent to {topic})"]
        for reason in reasons:
            yield f"{title} for consumers: {reason}"
    for (topic, title), now in new.sent.items():
        known = [each for (other, _), each in old.sent.items() if (other, each.name) == (topic, now.name)]
        if known and (topic, title) not in old.sent and all(_unreadable(now, each) for each in known):
            versions = " and ".join(each.version for each in known)
            yield f"{title} for consumers: it is new in {topic}, and those who read {versions} cannot read it"


def _for_handlers(old: Events, new: Events) -> Iterator[str]:
    before = old.all()
    for title, handled in new.received.items():
        for reason in _unreadable_by_handlers(before[title], handled) if title in before else ():
            yield f"{title} for handlers of earlier events: {reason}"
    # Without any version, nothing is known of what the handlers take.
    versions = {each.name for each in new.received.values() if each.version}
    for title, gone in before.items():
        if gone.version and title not in new.received and gone.name in versions:
            yield f"{title} for handlers of earlier events: it is no longer declared"


def _unreadable(written: Message, read: Message) -> list[str]:
    if written.content_type != read.content_type:
        return [f"the content type is {written.content_type}, expected {read.content_type}"]
    if written.is_envelope != read.is_envelope:
        return [f"it is {'an' if written.is_envelope else 'no longer an'} envelope (WIRE_FORMAT)"]
    return _unreadable_payload(written, read)


def _unreadable_by_handlers(written: Message, read: Message) -> list[str]:
    """Handlers get the same from envelopes and from every serializer, but bytes are not JSON."""
    types = (written.content_type, read.content_type)
    if types[0] != types[1] and BYTES in types:
        return [f"the content type is {types[0]}, expected {types[1]}"]
    return _unreadable_payload(written, read)


def _unreadable_payload(written: Message, read: Message) -> list[str]:
    """Return what breaks; nothing for payloads of serializers, which ``outbox_schemas check`` compares."""
    own, expected = written.schema, read.schema
    if expected is None or "schemaFormat" in expected or (own is not None and "schemaFormat" in own):
        return []
    if own is None:
        return ["the payload has no schema, expected one"]
    return broken_reads(own, written.document, expected, read.document)
