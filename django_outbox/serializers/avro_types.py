"""Converters for whole payloads: records, unions, arrays and maps of an Avro schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django_outbox.serializers.avro_values import (
    LOGICAL,
    PRIMITIVE,
    Convert,
    Misfit,
    decimal_of,
    enum_of,
    fixed_of,
)

_REQUIRED = object()
NAMED = ("record", "error", "enum", "fixed")


class Converters:
    """Makes converters for the types of one schema, as ``fastavro.parse_schema`` returns it."""

    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named
        self._made: dict[str, Convert] = {}

    def of(self, schema: Any) -> Convert:
        if isinstance(schema, list):
            return self._union(schema)
        if isinstance(schema, str):
            return PRIMITIVE.get(schema) or self._of_name(schema)
        kind = schema["type"]
        if isinstance(kind, (dict, list)):
            return self.of(kind)
        logical = LOGICAL.get((kind, schema.get("logicalType")))
        if logical is not None:
            return logical
        if kind == "bytes" and schema.get("logicalType") == "decimal":
            return decimal_of(schema)
        if kind in NAMED:
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
            return enum_of(schema)
        if schema["type"] == "fixed":
            return decimal_of(schema) if schema.get("logicalType") == "decimal" else fixed_of(schema)
        return _record(
            [
                (
                    field["name"],
                    self.of(field["type"]),
                    self._default(field["type"], field["default"]) if "default" in field else _REQUIRED,
                )
                for field in schema["fields"]
            ]
        )

    def _default(self, schema: Any, value: Any) -> Any:
        """A default of a schema, whose JSON is another than that of payloads, as the converters return values."""
        if isinstance(schema, list):  # the first branch, by Avro's rules
            tagged = next((each for each in schema if (each == "null") == (value is None)), schema[0])
            return None if value is None else (_tag(tagged), self._default(tagged, value))
        if isinstance(schema, str) and schema in self._named:
            schema = self._named[schema]
        kind = schema if isinstance(schema, str) else schema["type"]
        if isinstance(kind, (dict, list)):
            return self._default(kind, value)
        if kind in ("bytes", "fixed"):
            return value.encode("iso-8859-1")
        if kind == "array":
            return [self._default(schema["items"], each) for each in value]
        if kind == "map":
            return {name: self._default(schema["values"], each) for name, each in value.items()}
        if kind == "record":
            return {
                field["name"]: self._default(field["type"], value.get(field["name"], field.get("default")))
                for field in schema["fields"]
            }
        return value

    def _union(self, schemas: Sequence[Any]) -> Convert:
        branches = [(_tag(schema), self.of(schema)) for schema in schemas if schema != "null"]
        nullable = len(branches) < len(schemas)
        if len(branches) == 1:
            return _optional(*branches[0]) if nullable else _tagged(*branches[0])
        expected = " or ".join(tag for tag, _ in branches) + (" or null" if nullable else "")

        def convert(value: Any) -> Any:
            if value is None and nullable:
                return None
            for tag, branch in branches:
                try:
                    return tag, branch(value)
                except Misfit:
                    pass
            raise Misfit(expected, value)

        return convert


def _optional(tag: str, branch: Convert) -> Convert:
    return lambda value: None if value is None else (tag, branch(value))


def _tagged(tag: str, branch: Convert) -> Convert:
    return lambda value: (tag, branch(value))


def _tag(schema: Any) -> str:
    """How fastavro calls a branch of a union."""
    if isinstance(schema, str):
        return schema
    return str(schema["name"] if schema["type"] in NAMED else schema["type"])


def _record(fields: Sequence[tuple[str, Convert, Any]]) -> Convert:
    names = frozenset(name for name, _, _ in fields)

    def convert(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise Misfit("an object", value)
        converted = {}
        given = 0
        name = ""
        try:
            for name, of_field, default in fields:
                if name in value:
                    converted[name] = of_field(value[name])
                    given += 1
                elif default is _REQUIRED:
                    raise Misfit("", reason="it is missing")
                else:
                    converted[name] = default
        except Misfit as error:
            error.path.append(f".{name}")
            raise
        if given < len(value):
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
                converted.append(of_item(item))  # noqa: PERF401  # the path needs its length
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
