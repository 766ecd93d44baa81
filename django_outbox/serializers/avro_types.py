"""Converters for whole payloads: records, unions, arrays and maps of an Avro schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django_outbox.serializers.avro_values import (
    LOGICAL,
    OWN,
    PRIMITIVE,
    Convert,
    decimal_of,
    enum_of,
    fixed_of,
)
from django_outbox.serializers.base import kind_of
from django_outbox.serializers.misfit import Misfit

_REQUIRED = object()
_SHOWN = 100
NAMED = ("record", "error", "enum", "fixed")


class Converters:
    """Makes converters for the types of one schema, as ``fastavro.parse_schema`` returns it."""

    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named
        self._made: dict[str, Convert] = {}
        self._unfinished: set[str] = set()
        self.is_recursive = False
        """Whether a type contains itself, so that data may be nested to any depth."""

    def of(self, schema: Any) -> Convert:
        if isinstance(schema, list):
            return self._union(schema)
        if isinstance(schema, str):
            return PRIMITIVE.get(schema) or self._of_name(schema)
        kind = schema["type"]
        if isinstance(kind, (dict, list)):
            return self.of(kind)
        logical = _logical(schema)
        if (kind, logical) in LOGICAL:
            return LOGICAL[kind, logical]
        if kind == "bytes" and logical == "decimal":
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
        if name in self._unfinished:
            self.is_recursive = True
            return lambda value: self._made[name](value)
        if name not in self._made:
            self._unfinished.add(name)
            self._made[name] = self._of_named(schema or self._named[name])
            self._unfinished.remove(name)
        return self._made[name]

    def _of_named(self, schema: Any) -> Convert:
        if schema["type"] == "enum":
            return enum_of(schema)
        if schema["type"] == "fixed":
            return decimal_of(schema) if _logical(schema) == "decimal" else fixed_of(schema)
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
        """A default of a schema, whose JSON is another than that of payloads, as the converters return values.

        Raises:
            ValueError: it does not fit its type.
        """
        if isinstance(schema, list):
            return self._default_of_union(schema, value)
        if isinstance(schema, str) and schema in self._named:
            schema = self._named[schema]
        kind = schema if isinstance(schema, str) else schema["type"]
        if isinstance(kind, (dict, list)):
            return self._default(kind, value)
        if kind in ("bytes", "fixed"):
            data = _expect(str, value).encode("iso-8859-1")
            if kind == "fixed" and len(data) != schema["size"]:
                raise ValueError("a default does not have the size of its type")
            return data
        if kind == "array":
            return [self._default(schema["items"], each) for each in _expect(list, value)]
        if kind == "map":
            return {name: self._default(schema["values"], each) for name, each in _expect(dict, value).items()}
        if kind in ("record", "error"):
            given = _expect(dict, value)
            return {field["name"]: self._default_of_field(field, given) for field in schema["fields"]}
        return enum_of(schema)(value) if kind == "enum" else PRIMITIVE[kind](value)

    def _default_of_field(self, field: Any, given: Mapping[str, Any]) -> Any:
        if field["name"] not in given and "default" not in field:
            raise ValueError(f"a default lacks the field {field['name']}")
        return self._default(field["type"], given.get(field["name"], field.get("default")))

    def _default_of_union(self, schemas: Sequence[Any], value: Any) -> Any:
        """The default of the first type that fits: of any type since Avro 1.12, of the first one before."""
        for schema in schemas:
            try:
                default = self._default(schema, value)
            except ValueError:
                continue
            return default if schema == "null" else (_tag(schema), default)
        raise ValueError("a default does not fit any type of its union")

    def _union(self, schemas: Sequence[Any]) -> Convert:
        branches = [(_tag(schema), self.of(schema)) for schema in schemas if schema != "null"]
        branches.sort(key=lambda branch: branch[0] == "float")  # the last one, as it rounds what others represent
        nullable = len(branches) < len(schemas)
        if len(branches) == 1:
            return _optional(*branches[0]) if nullable else _tagged(*branches[0])
        expected = " or ".join(tag for tag, _ in branches) + (" or null" if nullable else "")

        def convert(value: Any) -> Any:
            if value is None and nullable:
                return None
            closest = Misfit(expected, value)
            for tag, branch in branches:
                try:
                    return tag, branch(value)
                except Misfit as error:
                    if len(error.path) > len(closest.path):
                        closest = error
            raise closest

        return convert


def _expect(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"expected {kind.__name__} as default, got {kind_of(value)}")
    return value


def _logical(schema: Any) -> str:
    return str(schema.get("logicalType", "")).removeprefix(OWN)


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
            unknown.path.append(f".{next(name for name in value if name not in names)[:_SHOWN]}")
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
        try:
            return {name: of_value(item) for name, item in value.items()}
        except Misfit as error:
            error.path.append("[*]")  # its keys are data
            raise

    return convert
