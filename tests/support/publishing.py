"""What tests of publishing have in common."""

from __future__ import annotations

from typing import Any

from django_outbox import publish


def nested(depth: int, innermost: Any = None) -> Any:
    """Lists and dicts in turn, so many levels deep."""
    value = [] if innermost is None else [innermost]
    for level in range(depth - 1):
        value = [value] if level % 2 else {"in": value}  # type: ignore[assignment]
    return value


def publish_with(field: str, value: Any) -> None:
    """Publish an event that is ordinary but for one argument."""
    arguments = {"event_type": "order.created", "payload": {"id": 1}, field: value}
    publish(arguments.pop("event_type"), arguments.pop("payload"), **arguments)
