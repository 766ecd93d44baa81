"""What a test expects of a message, and how it differs from one that was published."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher, ndiff
from enum import Enum
from hashlib import sha256
from typing import Any

from django_outbox.events.payloads import TOMBSTONE, RawBytes, is_json, is_tombstone, raw_bytes
from django_outbox.exceptions import InvalidMessage
from django_outbox.models import OutboxMessage
from django_outbox.models.validation import json_payload


class Unset(Enum):
    """The type of ``UNSET``: an argument that is not given, where None has a meaning."""

    UNSET = "unset"


UNSET = Unset.UNSET


@dataclass(frozen=True, slots=True)
class Expected:
    """What a test expects of a message.

    Attributes:
        fields: values by name, of those that the test names, except the payload.
        payload: the payload, or the part that it must contain; ``UNSET`` for any.
        is_part: whether ``payload`` is only a part.
    """

    fields: Mapping[str, str]
    payload: Any
    is_part: bool

    @classmethod
    def of(cls, fields: Mapping[str, object], payload: Any, payload__contains: Any, *, using: str) -> Expected:
        """Args: ``fields``: those that are None are not expected."""
        if payload is not UNSET and payload__contains is not UNSET:
            raise TypeError("Pass either payload or payload__contains.")
        is_part = payload__contains is not UNSET
        return cls(
            {name: str(value) for name, value in fields.items() if value is not None},
            as_stored(payload__contains if is_part else payload, using),
            is_part,
        )

    def matches(self, message: OutboxMessage) -> bool:
        if self.fields != self._fields_of(message):
            return False
        if self.payload is UNSET:
            return True
        actual = payload_of(message)
        return _contains(actual, self.payload) if self.is_part else bool(actual == self.payload)

    def __str__(self) -> str:
        texts = [f"{name} {_text(value)}" for name, value in self.fields.items()]
        if self.payload is not UNSET:
            texts.append(f"payload {'contains ' if self.is_part else ''}{_text(self.payload)}")
        return ", ".join(texts)

    def likeness(self, message: OutboxMessage) -> float:
        """How near a message comes: a point for each field that is equal, up to half of one if not; two for the type."""
        actual = self._fields_of(message)
        points = sum(_likeness(self.fields[name], actual[name]) for name in self.fields)
        points += self.fields["event_type"] == actual["event_type"]
        if self.payload is not UNSET:
            points += _likeness(*map(_text, self._payloads(message)))
        return points

    def difference(self, message: OutboxMessage) -> Iterator[str]:
        """Yield the lines of a diff, from what is expected to a message."""
        actual = self._fields_of(message)
        mine = [f"{name}: {_text(value)}" for name, value in self.fields.items()]
        other = [f"{name}: {_text(value)}" for name, value in actual.items()]
        if self.payload is not UNSET:
            expected, found = self._payloads(message)
            mine += f"payload: {_text(expected, indent=2)}".splitlines()
            other += f"payload: {_text(found, indent=2)}".splitlines()
        return (line for line in ndiff(mine, other) if not line.startswith("?"))

    def _fields_of(self, message: OutboxMessage) -> dict[str, str]:
        columns = {"key": "message_key", "version": "event_version"}
        return {name: str(getattr(message, columns.get(name, name))) for name in self.fields}

    def _payloads(self, message: OutboxMessage) -> tuple[Any, Any]:
        """The expected payload and that of a message, without what is not compared."""
        actual = payload_of(message)
        if self.is_part:
            actual = _part(actual, self.payload)
        return _aligned(self.payload, actual, is_part=self.is_part), actual


def payload_of(message: OutboxMessage) -> Any:
    """The payload as JSON returns it, or the ``RawBytes`` or ``TOMBSTONE`` that was published."""
    if is_json(message):
        return message.payload
    return TOMBSTONE if is_tombstone(message) else raw_bytes(message)


def describe(message: OutboxMessage) -> str:
    """A message in one line."""
    key = f", key {_text(message.message_key)}" if message.message_key else ""
    text = _text(payload_of(message))
    return f"{message.event_type}{key}, topic {message.topic}: {text if len(text) <= 200 else text[:200] + '...'}"


def as_stored(value: Any, using: str) -> Any:
    """A value as JSON returns it; objects that JSON cannot represent, such as ``mock.ANY``, stay as they are."""
    if value is None or value is UNSET or value is TOMBSTONE or isinstance(value, (str, int, float, RawBytes)):
        return value
    if isinstance(value, Mapping):
        return {str(name): as_stored(each, using) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_stored(each, using) for each in value]
    try:
        return json_payload(value, using=using)
    except InvalidMessage:
        return value


def _contains(actual: Any, expected: Any) -> bool:
    """As PostgreSQL's ``@>``: dicts and lists may have more in them than is expected."""
    if isinstance(actual, dict) and isinstance(expected, dict):
        return all(name in actual and _contains(actual[name], each) for name, each in expected.items())
    if isinstance(actual, list) and isinstance(expected, list):
        return all(any(_contains(item, each) for item in actual) for each in expected)
    return bool(expected == actual)


def _part(actual: Any, expected: Any) -> Any:
    """That part of a payload which is compared with an expected part."""
    if isinstance(actual, dict) and isinstance(expected, dict):
        return {name: _part(actual[name], each) for name, each in expected.items() if name in actual}
    if not isinstance(actual, list) or not isinstance(expected, list) or len(actual) != len(expected):
        return actual
    if _contains(actual, expected):  # items that match may be at other places
        return actual
    return [_part(*each) for each in zip(actual, expected, strict=True)]


def _aligned(expected: Any, actual: Any, *, is_part: bool) -> Any:
    """The expected value with everything that matches written as it is in the actual one, such as ``mock.ANY``."""
    if _contains(actual, expected) if is_part else expected == actual:
        return actual
    if isinstance(actual, dict) and isinstance(expected, dict):
        return {
            name: _aligned(each, actual[name], is_part=is_part) if name in actual else each
            for name, each in expected.items()
        }
    if isinstance(actual, list) and isinstance(expected, list) and len(actual) == len(expected):
        return [_aligned(*each, is_part=is_part) for each in zip(expected, actual, strict=True)]
    return expected


def _likeness(one: str, other: str) -> float:
    return 1.0 if one == other else SequenceMatcher(None, one, other).ratio() / 2


def _text(value: Any, indent: int | None = None) -> str:
    if isinstance(value, RawBytes):
        text = f"RawBytes of {len(value)} bytes, {value.content_type}"
        return f"{text}, SHA-256 {sha256(value).hexdigest()[:16]}" if indent else text
    if value is TOMBSTONE:
        return "TOMBSTONE"
    if value == {} and indent:
        return "{\n}"  # as lines, like those that it is compared with
    return json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=False, default=repr)
