"""Converts payloads from JSON to what an Avro schema asks for, and checks them on the way.

JSON has no dates, decimals or bytes. They are text in the payload, as Django writes them: ISO 8601, digits, base64.
"""

from __future__ import annotations

import base64
import binascii
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any

from django_outbox.exceptions import InvalidMessage

Convert = Callable[[Any], Any]

_LIMITS = {"int": 2**31, "long": 2**63}
_LARGEST = {"float": 3.4028234663852886e38, "double": sys.float_info.max}
_NAMED = ("record", "error", "enum", "fixed")


class Misfit(ValueError):
    """A value does not fit. ``path`` is where it is in the payload, the last part first."""

    def __init__(self, expected: str, value: Any = None, reason: str = "") -> None:
        super().__init__(reason or f"expected {expected}, got {_kind_of(value)}")
        self.path: list[str] = []

    def as_invalid(self) -> InvalidMessage:
        where = "".join(reversed(self.path)).lstrip(".")
        return InvalidMessage(f"payload.{where}" if where else "payload", str(self))


class Converters:
    """Makes converters for the types of one schema, as ``fastavro.parse_schema`` returns it."""

    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named
        self._made: dict[str, Convert] = {}

    def of(self, schema: Any) -> Convert:
        if isinstance(schema, list):
            return self._union(schema)
        if isinstance(schema, str):
            return _PRIMITIVE.get(schema) or self._of_name(schema)
        kind = schema["type"]
        if isinstance(kind, (dict, list)):
            return self.of(kind)
        logical = _LOGICAL.get((kind, schema.get("logicalType")))
        if logical is not None:
            return logical
        if schema.get("logicalType") == "decimal" and kind in ("bytes", "fixed"):
            return _decimal(schema)
        if kind in _NAMED:
            return self._of_name(schema["name"], schema)
        if kind == "array":
            return _array(self.of(schema["items"]))
        if kind == "map":
            return _map(self.of(schema["values"]))
        return self.of(kind)

    def _of_name(self, name: str, schema: Any = None) -> Convert:
        """The converter of a named type, which may contain itself."""
        if name not in self._made:
            self._made[name] = lambda value: self._made[name](value)  # for uses within its own definition
            self._made[name] = self._of_named(schema or self._named[name])
        return self._made[name]

    def _of_named(self, schema: Any) -> Convert:
        if schema["type"] == "enum":
            return _enum(schema)
        if schema["type"] == "fixed":
            return _fixed(schema)
        return _record([(field["name"], self.of(field["type"]), "default" in field) for field in schema["fields"]])

    def _union(self, schemas: Sequence[Any]) -> Convert:
        branches = [(_tag(schema), self.of(schema)) for schema in schemas if schema != "null"]
        nullable = len(branches) < len(schemas)
        expected = " or ".join(name if isinstance(name := tag, str) else "value" for tag, _ in branches)

        def convert(value: Any) -> Any:
            if value is None and nullable:
                return None
            if len(branches) == 1:
                tag, branch = branches[0]
                return tag, branch(value)
            for tag, branch in branches:
                try:
                    return tag, branch(value)
                except Misfit:
                    pass
            raise Misfit(expected + (" or null" if nullable else ""), value)

        return convert


def _tag(schema: Any) -> str:
    """How fastavro calls a branch of a union."""
    if isinstance(schema, str):
        return schema
    return str(schema["name"] if schema["type"] in _NAMED else schema["type"])


def _record(fields: Sequence[tuple[str, Convert, bool]]) -> Convert:
    names = frozenset(name for name, _, _ in fields)

    def convert(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise Misfit("an object", value)
        converted = {}
        name = ""
        try:
            for name, of_field, has_default in fields:
                if name in value:
                    converted[name] = of_field(value[name])
                elif not has_default:
                    raise Misfit("", reason="it is missing")
        except Misfit as error:
            error.path.append(f".{name}")
            raise
        if len(converted) < len(value):
            unknown = Misfit("", reason="the schema does not have it")
            unknown.path.append(f".{next(name for name in value if name not in names)}")
            raise unknown
        return converted

    return convert


def _array(of_item: Convert) -> Convert:
    def convert(value: Any) -> list[Any]:
        if type(value) is not list:
            raise Misfit("an array", value)
        converted: list[Any] = []
        try:
            for item in value:
                converted.append(of_item(item))
        except Misfit as error:
            error.path.append(f"[{len(converted)}]")
            raise
        return converted

    return convert


def _map(of_value: Convert) -> Convert:
    def convert(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise Misfit("an object", value)
        converted = {}
        name = ""
        try:
            for name, item in value.items():
                converted[name] = of_value(item)
        except Misfit as error:
            error.path.append(f".{name}")
            raise
        return converted

    return convert


def _enum(schema: Any) -> Convert:
    symbols = frozenset(schema["symbols"])

    def convert(value: Any) -> Any:
        if type(value) is not str or value not in symbols:
            raise Misfit("", reason=f"expected one of {', '.join(schema['symbols'])}")
        return value

    return convert


def _fixed(schema: Any) -> Convert:
    size = schema["size"]

    def convert(value: Any) -> bytes:
        data = _bytes(value)
        if len(data) != size:
            raise Misfit("", reason=f"expected base64 of {size} bytes, got {len(data)} bytes")
        return data

    return convert


def _decimal(schema: Any) -> Convert:
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


_PRIMITIVE: dict[str, Convert] = {
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
_LOGICAL: dict[tuple[str, Any], Convert] = {
    ("int", "date"): _parsed(date.fromisoformat, "a date such as 2026-01-31"),
    ("int", "time-millis"): _TIME,
    ("long", "time-micros"): _TIME,
    ("long", "timestamp-millis"): _INSTANT,
    ("long", "timestamp-micros"): _INSTANT,
    ("long", "local-timestamp-millis"): _LOCAL,
    ("long", "local-timestamp-micros"): _LOCAL,
    ("string", "uuid"): _parsed(lambda text: str(uuid.UUID(text)), "a UUID"),
}


def _kind_of(value: Any) -> str:
    """A JSON value for an error message, which must not show it."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "text", list: "an array", dict: "an object"}
    return names.get(type(value), type(value).__name__)


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
