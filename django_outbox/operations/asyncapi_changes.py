"""Changes between two AsyncAPI documents that break those who read the events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from django_outbox.operations.schema_changes import broken_reads, resolved

Document = dict[str, Any]


class Use(NamedTuple):
    """An event type in a topic, and its message."""

    topic: str
    name: str
    message: dict[str, Any]


def breaking_changes(old: Document, new: Document) -> list[str]:
    """Return what consumers by the old document cannot read any more, and what the new handlers cannot.

    Sent events must be readable with the old document. Events that were sent before are still in outboxes and Kafka, so
    they must be readable by the handlers of the new one.

    Raises:
        LookupError, TypeError, AttributeError: one is not a document of ``outbox_asyncapi``.
    """
    sent, before = _uses(new, "send"), _uses(old, "send")
    problems = [problem for key, use in before.items() for problem in _sent(use, sent.get(key), old, new, [*sent])]
    handled, before = _uses(new, "receive"), _uses(old, "receive")
    problems += [
        f"{use.name}: handlers cannot read earlier events: {problem}"
        for key, use in handled.items()
        if key in before
        for problem in _payload_problems(before[key].message, old, use.message, new)
    ]
    return problems


def _uses(document: Document, action: str) -> dict[tuple[str, str], Use]:
    found: dict[tuple[str, str], Use] = {}
    for operation in document["operations"].values():
        if operation["action"] != action:
            continue
        topic = resolved(operation["channel"], document)["address"]
        for reference in operation["messages"]:
            name = reference["$ref"].rpartition("/")[2]
            found[topic, name] = Use(topic, name, resolved(reference, document))
    return found


def _sent(use: Use, now: Use | None, old: Document, new: Document, sent: list[tuple[str, str]]) -> Iterator[str]:
    if now is None:
        topics = [topic for topic, name in sent if name == use.name]
        elsewhere = f", but to {', '.join(topics)}" if topics else ""
        yield f"{use.name}: it is no longer sent to {use.topic}{elsewhere}"
        return
    before, after = use.message.get("contentType"), now.message.get("contentType")
    if before != after:
        yield f"{use.name}: its content type is {after}, and consumers expect {before}"
        return
    for problem in _payload_problems(now.message, new, use.message, old):
        yield f"{use.name}: consumers cannot read it: {problem}"


def _payload_problems(
    written: dict[str, Any], written_in: Document, read: dict[str, Any], read_in: Document
) -> list[str]:
    """Return what breaks; nothing for formats with a registry, which ``outbox_schemas check`` compares."""
    expected, payload = read.get("payload"), written.get("payload")
    if expected is None or "schemaFormat" in expected:
        return []
    if payload is None or "schemaFormat" in payload:
        return ["its schema is not declared any more"]
    return broken_reads(payload, written_in, expected, read_in)
