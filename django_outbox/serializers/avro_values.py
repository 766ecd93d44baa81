"""Converts single values from JSON to what an Avro schema asks for, and checks them on the way.

JSON has no dates, decimals or bytes. They are text in the payload, as Django writes them: ISO 8601, digits, base64.
"""

from __future__ import annotations

import base64
import struct
import sys
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Context, Inexact, InvalidOperation
from typing import Any

from django_outbox.serializers.misfit import Misfit, bytes_of_base64, keeps_digits

Convert = Callable[[Any], Any]

_LIMITS = {"int": 2**31, "long": 2**63}
_EXACT = Context(prec=1000, traps=[Inexact, InvalidOperation])
_DAY = 86_400 * 10**6
_LARGEST = {"float": 3.4028234663852886e38, "double": sys.float_info.max}


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
    """
    Raises:
        ValueError: the type has no valid precision and scale.
    """
    precision, scale, size = schema.get("precision"), schema.get("scale", 0), schema.get("size")
    if type(precision) is not int or type(scale) is not int or not 0 <= scale <= precision or not precision:
        raise ValueError("a decimal needs a precision, and a scale that is not larger")
    expected = f"a decimal with at most {precision} digits, {scale} of them after the point"
    limit = 10**precision

    def convert(value: Any) -> bytes:
        if type(value) not in (str, int, float):
            raise Misfit(expected, value)
        try:
            number = _EXACT.create_decimal(str(value))
            if number and number.adjusted() >= precision - scale:
                raise ValueError
            units = int(_EXACT.to_integral_exact(number.scaleb(scale, _EXACT)))
            if -limit < units < limit:
                return units.to_bytes(size or (units.bit_length() + 8) // 8, "big", signed=True)
        except (ArithmeticError, ValueError):  # ValueError also for an int with thousands of digits, or NaN
            pass
        raise Misfit("", reason=f"expected {expected}")

    return convert


def _read_decimal(data: bytes, schema: Any, _: Any = None) -> str:
    units = int.from_bytes(data, "big", signed=True)
    if abs(units) >= 10 ** schema["precision"]:
        raise ValueError
    scale = schema.get("scale", 0)
    digits = f"{abs(units):0{scale + 1}d}"
    number = f"{digits[:-scale]}.{digits[-scale:]}" if scale else digits
    return f"-{number}" if units < 0 else number


def _read_time(micros_per_unit: int) -> Callable[..., str]:
    def read(units: int, schema: Any, _: Any = None) -> str:
        micros = units * micros_per_unit
        if not 0 <= micros < _DAY:
            raise ValueError
        return (_EPOCH + timedelta(microseconds=micros)).time().isoformat()

    return read


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
    limit, packed = _LARGEST[kind], struct.Struct("d" if kind == "double" else "f")

    def convert(value: Any) -> Any:
        if type(value) is not float and type(value) is not int:
            raise Misfit("a number", value)
        if not -limit <= value <= limit:
            raise Misfit("", reason=f"it is out of range of {kind}")
        if type(value) is int and not keeps_digits(packed, value):
            raise Misfit("", reason=f"{kind} cannot represent all digits of this integer")
        return value

    return convert


def _string(value: Any) -> Any:
    if type(value) is not str:
        raise Misfit("a string", value)
    return value


def _bytes(value: Any) -> bytes:
    if type(value) is str:
        data = bytes_of_base64(value)
        if data is not None:
            return data
    raise Misfit("bytes as base64", value)


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


OWN = "django-outbox-"
"""Prefix of logical types whose readers are those below."""
READERS = {
    ("bytes", "decimal"): _read_decimal,
    ("fixed", "decimal"): _read_decimal,
    ("int", "time-millis"): _read_time(1000),
    ("long", "time-micros"): _read_time(1),
}
"""Instead of fastavro's, which round decimals with too many digits, and take negative times for others."""


def as_json(value: Any) -> Any:
    """What Avro has and JSON does not: text in its place, as ``default`` of ``json.dumps``."""
    if isinstance(value, datetime):
        text = value.isoformat()
        return text.removesuffix("+00:00") + "Z" if value.tzinfo is UTC else text
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if isinstance(value, uuid.UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON")
