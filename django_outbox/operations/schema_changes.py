"""Compares two JSON Schemas: what may be written with one of them and cannot be read with the other.

It knows what pydantic writes. Fields that neither schema names are ignored, as readers ignore them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from django_outbox.serializers.base import kind_of

Schema = Any  # an object, or a boolean
ANYTHING = "anything"

_LEAST = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_MOST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_SAME = ("pattern", "format", "multipleOf", "uniqueItems", "not")


def broken_reads(written: Schema, written_in: Any, read: Schema, read_in: Any) -> list[str]:
    """Return why a payload that is valid by ``written`` may not be valid by ``read``, each with the field.

    Args:
        written_in, read_in: the documents in which their references lead to a place.
    """
    return _Comparison(written_in, read_in).of(written, read, "")


class _Comparison:
    def __init__(self, written_in: Any, read_in: Any) -> None:
        self._written_in = written_in
        self._read_in = read_in
        self._seen: set[tuple[int, int]] = set()

    def of(self, written: Schema, read: Schema, place: str) -> list[str]:
        written, read = resolved(written, self._written_in), resolved(read, self._read_in)
        pair = (id(written), id(read))
        if pair in self._seen:  # a type that contains itself
            return []
        self._seen.add(pair)
        try:
            problems: list[str] = []
            expected = list(_alternatives(read, self._read_in))
            for each in _single_values(_alternatives(written, self._written_in)):
                found = [self._alternative(each, other, place) for other in expected]
                if all(found):
                    alike = [them for them, other in zip(found, expected, strict=True) if _kind(other) == _kind(each)]
                    if len(expected) == 1 or len(alike) == 1:
                        problems += (alike or found)[0]
                    else:
                        kinds = " or ".join(dict.fromkeys(map(_kind, expected)))
                        problems.append(_problem(place, f"it may be {_kind(each)}, and is read as {kinds}"))
            return list(dict.fromkeys(problems))
        finally:
            self._seen.discard(pair)

    def _alternative(self, written: Schema, read: Schema, place: str) -> list[str]:
        if read is True or read == {}:
            return []
        if read is False:
            return [_problem(place, "it may be written, and readers refuse it")]
        values, known = _values(written), _values(read)
        if known is not None:
            if values is None:
                return [_problem(place, f"it may be any {_kind(written)}, and is read as {_listed(known)}")]
            if unknown := [each for each in values if each not in known]:
                return [_problem(place, f"it may be {_listed(unknown)}, and is read as {_listed(known)}")]
            return []
        kind, expected = _kind(written), _kind(read)
        if expected not in (ANYTHING, kind) and (kind, expected) != ("integer", "number"):
            return [_problem(place, f"it is written as {kind}, and read as {expected}")]
        problems = [_problem(place, rule) for rule in _looser(written, read)]
        if kind == "object":
            problems += self._fields(written, read, place)
        elif kind == "array":
            problems += self._items(written, read, place)
        return problems

    def _fields(self, written: Schema, read: Schema, place: str) -> Iterator[str]:
        fields, expected = written.get("properties", {}), read.get("properties", {})
        always, others = written.get("required", ()), read.get("additionalProperties", True)
        for name in read.get("required", ()):
            if name not in fields:
                yield _problem(_field(place, name), "it is not written, and readers require it")
            elif name not in always:
                yield _problem(_field(place, name), "it may be missing, and readers require it")
        for name, schema in fields.items():
            if name in expected:
                yield from self.of(schema, expected[name], _field(place, name))
            elif others is False:
                yield _problem(_field(place, name), "it is written, and readers refuse unknown fields")
            elif others is not True:
                yield from self.of(schema, others, _field(place, name))
        more = written.get("additionalProperties")  # of a dict, where any field is written
        if more not in (None, False) and others is not True:
            yield from self.of(more, others, _field(place, "*"))

    def _items(self, written: Schema, read: Schema, place: str) -> Iterator[str]:
        items, expected = written.get("items", True), read.get("items", True)
        if not isinstance(items, list) and not isinstance(expected, list):
            yield from self.of(items, expected, f"{place}[*]")
            return
        longest = max(len(each) for each in (items, expected) if isinstance(each, list))
        for index in range(longest):
            pair = [each[index : index + 1] if isinstance(each, list) else [each] for each in (items, expected)]
            if all(pair):
                yield from self.of(pair[0][0], pair[1][0], f"{place}[{index}]")


def resolved(schema: Schema, root: Any) -> Schema:
    """Return what a schema refers to.

    Raises:
        LookupError: a reference leads nowhere.
    """
    while isinstance(schema, dict):
        if "$ref" in schema:
            place = root
            for part in schema["$ref"].removeprefix("#/").split("/"):
                place = place[part.replace("~1", "/").replace("~0", "~")]
            schema = place
        elif len(schema.get("allOf", ())) == 1:
            schema = schema["allOf"][0]
        else:
            break
    return schema


def _alternatives(schema: Schema, root: Any) -> Iterator[Schema]:
    if isinstance(schema, dict) and (several := schema.get("anyOf") or schema.get("oneOf")):
        for each in several:
            yield from _alternatives(resolved(each, root), root)
    elif isinstance(schema, dict) and isinstance(schema.get("type"), list):
        yield from ({**schema, "type": each} for each in schema["type"])
    else:
        yield schema


def _single_values(schemas: Iterator[Schema]) -> Iterator[Schema]:
    """Take enumerations apart, as each value may be read by another alternative."""
    for schema in schemas:
        values = _values(schema)
        if values is None:
            yield schema
        else:
            kind = {"type": schema["type"]} if "type" in schema else {}
            yield from ({**kind, "const": value} for value in values)


def _kind(schema: Schema) -> str:
    if not isinstance(schema, dict):
        return ANYTHING
    kind = schema.get("type")
    values = _values(schema)
    if kind is None and values:
        kinds = {kind_of(value) for value in values}
        return (
            kinds.pop().removeprefix("an ").removeprefix("a ").replace("text", "string")
            if len(kinds) == 1
            else ANYTHING
        )
    return ANYTHING if kind is None else str(kind)


def _values(schema: Schema) -> list[Any] | None:
    if not isinstance(schema, dict):
        return None
    if "const" in schema:
        return [schema["const"]]
    values: list[Any] | None = schema.get("enum")
    return values


def _looser(written: Schema, read: Schema) -> Iterator[str]:
    if not isinstance(written, dict):
        written = {}
    for rule in (*_LEAST, *_MOST, *_SAME):
        if rule not in read:
            continue
        own, other = written.get(rule), read[rule]
        if own is None:
            yield f"it has no {rule}, and readers require {rule} {_json(other)}"
        elif (own < other) if rule in _LEAST else (own > other) if rule in _MOST else own != other:
            yield f"its {rule} is {_json(own)}, and readers require {_json(other)}"


def _field(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _problem(place: str, reason: str) -> str:
    return f"{place or 'the payload'}: {reason}"


def _listed(values: list[Any]) -> str:
    return " or ".join(map(_json, values))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
