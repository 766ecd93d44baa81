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
_MOST_DIGITS = 1000
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
    """Digits become a signed number of the smallest units; without ``Decimal``'s arithmetic, which rounds."""
    precision, scale, size = schema["precision"], schema.get("scale", 0), schema.get("size")
    expected = f"a decimal with at most {precision} digits, {scale} of them after the point"
    limit = 10**precision

    def convert(value: Any) -> bytes:
        if type(value) not in (str, int, float):
            raise Misfit(expected, value)
        try:
            sign, digits, exponent = Decimal(str(value)).as_tuple()
        except (InvalidOperation, ValueError):  # ValueError: an int with thousands of digits
            raise Misfit(expected, value) from None
        units = _units(digits, exponent, scale) if isinstance(exponent, int) and len(digits) < _MOST_DIGITS else None
        if units is None or units >= limit:
            raise Misfit("", reason=f"expected {expected}")
        units = -units if sign else units
        return units.to_bytes(size or (units.bit_length() + 8) // 8, "big", signed=True)

    return convert


def _units(digits: tuple[int, ...], exponent: int, scale: int) -> int | None:
    """The smallest units of a number; None if it has parts of them, or far too many."""
    number, shift = int("".join(map(str, digits))), exponent + scale
    if not number:
        return 0
    if shift >= 0:
        return number * 10**shift if shift < _MOST_DIGITS else None
    units, rest = divmod(number, 10**-shift) if -shift < len(digits) else (0, 1)
    return None if rest else units


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
        except (ValueError, OverflowError):
            pass
        raise Misfit(expected, value)

    return convert


def _micros_since(epoch: datetime) -> Callable[[str], int]:
    """Microseconds since an epoch; a time is refused if it has no zone and the epoch has one, and the other way round."""

    def parse(text: str) -> int:
        moment = datetime.fromisoformat(text)
        if (moment.tzinfo is None) != (epoch.tzinfo is None):
            raise ValueError
        since = moment - epoch
        if not date.min.toordinal() <= since.days + epoch.toordinal() <= date.max.toordinal():
            raise ValueError  # in UTC, it has a year that Python cannot read
        return (since.days * 86400 + since.seconds) * 10**6 + since.microseconds

    return parse


def _micros_of_day(text: str) -> int:
    moment = time.fromisoformat(text)
    if moment.tzinfo is not None:
        raise ValueError
    return ((moment.hour * 60 + moment.minute) * 60 + moment.second) * 10**6 + moment.microsecond


def _units_of(micros: Callable[[str], int], kind: str, name: str, expected: str) -> dict[tuple[str, Any], Convert]:
    """The converters of a logical type in milli- and microseconds. ``kind`` is the type of the first."""
    return {
        (kind, f"{name}-millis"): _parsed(lambda text: micros(text) // 1000, expected),
        ("long", f"{name}-micros"): _parsed(micros, expected),
    }


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
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LOGICAL: dict[tuple[str, Any], Convert] = {
    ("int", "date"): _parsed(
        lambda text: date.fromisoformat(text).toordinal() - _EPOCH.toordinal(), "a date such as 2026-01-31"
    ),
    **_units_of(_micros_of_day, "int", "time", "a time such as 14:30:00"),
    **_units_of(_micros_since(_EPOCH), "long", "timestamp", "a time with its zone, such as 2026-01-31T14:30:00Z"),
    **_units_of(
        _micros_since(_EPOCH.replace(tzinfo=None)),
        "long",
        "local-timestamp",
        "a time without a zone, such as 2026-01-31T14:30:00",
    ),
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
