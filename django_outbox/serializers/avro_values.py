"""Converts single values from JSON to what an Avro schema asks for, and checks them on the way.

JSON has no dates, decimals or bytes. They are text in the payload, as Django writes them: ISO 8601, digits, base64.
"""

from __future__ import annotations

import base64
import binascii
import sys
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any

from django_outbox.exceptions import InvalidMessage
from django_outbox.serializers.base import kind_of

Convert = Callable[[Any], Any]

_LIMITS = {"int": 2**31, "long": 2**63}
_LARGEST = {"float": 3.4028234663852886e38, "double": sys.float_info.max}


class Misfit(ValueError):
    """A value does not fit. ``path`` is where it is in the payload, the last part first."""

    def __init__(self, expected: str, value: Any = None, reason: str = "") -> None:
        super().__init__(reason or f"expected {expected}, got {kind_of(value)}")
        self.path: list[str] = []

    def as_invalid(self) -> InvalidMessage:
        where = "".join(reversed(self.path)).lstrip(".")
        return InvalidMessage(f"payload.{where}" if where else "payload", str(self))


def enum_of(schema: Any) -> Convert:
    symbols = frozenset(schema["symbols"])

    def convert(value: Any) -> Any:
        if type(value) is not str or value not in symbols:
            raise Misfit("", reason=f"expected one of {', '.join(schema['symbols'])}")
        return value

    return convert


def fixed_of(schema: Any) -> Convert:
    size = schema["size"]

    def convert(value: Any) -> bytes:
        data = _bytes(value)
        if len(data) != size:
            raise Misfit("", reason=f"expected base64 of {size} bytes, got {len(data)} bytes")
        return data

    return convert


def decimal_of(schema: Any) -> Convert:
    precision, scale = schema["precision"], schema.get("scale", 0)
    expected = f"a decimal with at most {precision} digits, {scale} of them after the point"

    def convert(value: Any) -> Decimal:
        if type(value) not in (str, int, float):
            raise Misfit(expected, value)
        try:
            number = Decimal(str(value))
        except (InvalidOperation, ValueError):
            raise Misfit(expected, value) from None
        if not number.is_finite():
            raise Misfit(expected, value)
        number = number.normalize()
        _, digits, exponent = number.as_tuple()
        if -exponent > scale or len(digits) + exponent + scale > precision:  # type: ignore[operator]  # it is finite
            raise Misfit("", reason=f"expected {expected}")
        return number

    return convert


def _null(value: Any) -> None:
    if value is not None:
        raise Misfit("null", value)


def _boolean(value: Any) -> Any:
    if type(value) is not bool:
        raise Misfit("a boolean", value)
    return value


def _integer(kind: str) -> Convert:
    limit = _LIMITS[kind]

    def convert(value: Any) -> Any:
        if type(value) is not int:
            raise Misfit(kind, value)
        if not -limit <= value < limit:
            raise Misfit("", reason=f"it is out of range of {kind}")
        return value

    return convert


def _number(kind: str) -> Convert:
    limit = _LARGEST[kind]

    def convert(value: Any) -> Any:
        if type(value) is not float and type(value) is not int:
            raise Misfit("a number", value)
        if not -limit <= value <= limit:
            raise Misfit("", reason=f"it is out of range of {kind}")
        return value

    return convert


def _string(value: Any) -> Any:
    if type(value) is not str:
        raise Misfit("a string", value)
    return value


def _bytes(value: Any) -> bytes:
    if type(value) is not str:
        raise Misfit("bytes as base64", value)
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise Misfit("bytes as base64", value) from None


def _parsed(parse: Callable[[str], Any], expected: str) -> Convert:
    def convert(value: Any) -> Any:
        try:
            if type(value) is str:
                return parse(value)
        except ValueError:
            pass
        raise Misfit(expected, value)

    return convert


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError
    return instant


def _local(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is not None:
        raise ValueError
    return instant


PRIMITIVE: dict[str, Convert] = {
    "null": _null,
    "boolean": _boolean,
    "int": _integer("int"),
    "long": _integer("long"),
    "float": _number("float"),
    "double": _number("double"),
    "string": _string,
    "bytes": _bytes,
}
_TIME = _parsed(time.fromisoformat, "a time such as 14:30:00")
_INSTANT = _parsed(_instant, "a time with its zone, such as 2026-01-31T14:30:00Z")
_LOCAL = _parsed(_local, "a time without a zone, such as 2026-01-31T14:30:00")
LOGICAL: dict[tuple[str, Any], Convert] = {
    ("int", "date"): _parsed(date.fromisoformat, "a date such as 2026-01-31"),
    ("int", "time-millis"): _TIME,
    ("long", "time-micros"): _TIME,
    ("long", "timestamp-millis"): _INSTANT,
    ("long", "timestamp-micros"): _INSTANT,
    ("long", "local-timestamp-millis"): _LOCAL,
    ("long", "local-timestamp-micros"): _LOCAL,
    ("string", "uuid"): _parsed(lambda text: str(uuid.UUID(text)), "a UUID"),
}


def as_json(value: Any) -> Any:
    """What Avro has and JSON does not: text in its place, as ``default`` of ``json.dumps``."""
    if isinstance(value, datetime):
        text = value.isoformat()
        return text.removesuffix("+00:00") + "Z" if value.tzinfo is UTC else text
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if isinstance(value, (Decimal, uuid.UUID)):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON")
