"""Which fields of an Avro schema a reader with another version cannot read. The rules are those of Avro's resolution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from django_outbox.serializers.avro_types import NAMED

_READ_AS = {
    "int": {"long", "float", "double"},
    "long": {"float", "double"},
    "float": {"double"},
    "string": {"bytes"},
    "bytes": {"string"},
}


class Side(NamedTuple):
    """A schema as ``fastavro.parse_schema`` returns it, with its named types."""

    schema: Any
    named: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return "union" if isinstance(self.schema, list) else str(self.schema["type"])

    def of(self, schema: Any) -> Side:
        """Return a schema that is part of this one, with its name resolved, as a dict or a list."""
        while not isinstance(schema, list):
            if isinstance(schema, str):
                schema = self.named.get(schema, {"type": schema})
            if not isinstance(schema["type"], (dict, list)):
                break
            schema = schema["type"]
        return Side(schema, self.named)


def contains_itself(side: Side, inside: frozenset[str] = frozenset()) -> bool:
    """True if a type is part of itself, so that data may be nested to any depth."""
    side = side.of(side.schema)
    if side.kind == "union":
        parts = side.schema
    elif side.kind in ("array", "map"):
        parts = [side.schema["items" if side.kind == "array" else "values"]]
    elif side.kind in ("record", "error"):
        if side.schema["name"] in inside:
            return True
        inside |= {side.schema["name"]}
        parts = [field["type"] for field in side.schema["fields"]]
    else:
        return False
    return any(contains_itself(side.of(part), inside) for part in parts)


def unreadable(reader: Side, writer: Side) -> list[str]:
    """Return what a reader cannot read of data of a writer: each a place and a reason."""
    found = _unreadable(reader.of(reader.schema), writer.of(writer.schema), "", set())
    return [f"{path.lstrip('.') or 'the whole payload'}: {reason}" for path, reason in found]


def _unreadable(reader: Side, writer: Side, path: str, seen: set[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    if writer.kind == "union":
        for branch in writer.schema:
            yield from _unreadable(reader, writer.of(branch), path, seen)
    elif reader.kind == "union":
        tries = [list(_unreadable(reader.of(branch), writer, path, set(seen))) for branch in reader.schema]
        if all(tries):
            same = [
                each for branch, each in zip(reader.schema, tries, strict=True) if _is_like(reader.of(branch), writer)
            ]
            yield from same[0] if same else [(path, f"{_name(writer)} is not one of its types any more")]
    elif reader.kind != writer.kind:
        if reader.kind not in _READ_AS.get(writer.kind, ()):
            yield path, f"it is written as {_name(writer)} and read as {_name(reader)}"
    elif reader.kind in ("array", "map"):
        part = "items" if reader.kind == "array" else "values"
        yield from _unreadable(reader.of(reader.schema[part]), writer.of(writer.schema[part]), f"{path}[]", seen)
    elif reader.kind in NAMED:
        yield from _unreadable_named(reader, writer, path, seen)


def _unreadable_named(reader: Side, writer: Side, path: str, seen: set[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    names = (reader.schema["name"], writer.schema["name"])
    if names in seen:  # it contains itself
        return
    seen.add(names)
    if not _is_like(reader, writer):
        yield path, f"it is written as {names[1]} and read as {names[0]}"
    elif reader.kind == "enum":
        missing = [each for each in writer.schema["symbols"] if each not in reader.schema["symbols"]]
        if missing and "default" not in reader.schema:
            yield path, f"{', '.join(missing)} is not one of its symbols"
    elif reader.kind == "fixed":
        if reader.schema["size"] != writer.schema["size"]:
            yield path, f"it is written with {writer.schema['size']} bytes and read with {reader.schema['size']}"
    else:
        written = {field["name"]: field for field in writer.schema["fields"]}
        for field in reader.schema["fields"]:
            place = f"{path}.{field['name']}"
            name = next((each for each in (field["name"], *field.get("aliases", ())) if each in written), None)
            if name is not None:
                yield from _unreadable(reader.of(field["type"]), writer.of(written[name]["type"]), place, seen)
            elif "default" not in field:
                yield place, "it is not written, and the reader has no default for it"


def _is_like(reader: Side, writer: Side) -> bool:
    """True if two types are of a kind and, if they are named, have the same name or an alias."""
    if reader.kind != writer.kind or reader.kind not in NAMED:
        return reader.kind == writer.kind
    names = {_short(name) for name in (reader.schema["name"], *reader.schema.get("aliases", ()))}
    return _short(writer.schema["name"]) in names


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _name(side: Side) -> str:
    return str(side.schema["name"]) if side.kind in NAMED else side.kind
