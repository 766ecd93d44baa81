"""Compares the rules of two JSON Schemas: values, types, bounds, lengths, patterns, formats."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

ANYTHING = "anything"
COMPARED = (
    {"type", "const", "enum", "pattern", "format", "contentSchema", "minLength", "maxLength", "multipleOf"}
    | {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
    | {"items", "additionalItems", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties"}
    | {"properties", "required", "additionalProperties", "patternProperties", "propertyNames"}
)
"""The keywords whose meaning is known."""

_ANNOTATIONS = {"title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly"}
_ANNOTATIONS |= {"discriminator", "$schema", "$id", "$comment", "$defs", "definitions"}

_KINDS = {type(None): "null", bool: "boolean", int: "integer", float: "number", str: "string"}
_KINDS |= {list: "array", dict: "object"}
_LENGTHS = {"string": "Length", "array": "Items", "object": "Properties"}
_OTHERS = {
    "pattern": ("string",),
    "format": ("string",),
    "multipleOf": ("integer", "number"),
    "uniqueItems": ("array",),
}


def mismatch(written: Any, read: Any) -> str | None:
    """Return why values or JSON types do not fit."""
    kind, expected, known = kind_of(written), kind_of(read), constants(read)
    if known is not None and "const" not in written:
        return f"may be {ANYTHING if kind == ANYTHING else f'any {kind}'}, expected {listed(known)}"
    if known is not None and not are_among(constants(written), known):
        return f"may be {json_of(written['const'])}, expected {listed(known)}"
    if expected in (ANYTHING, kind) or (kind, expected) == ("integer", "number"):
        return None
    return f"{'may be' if kind in ('null', ANYTHING) else 'is'} {kind}, expected {expected}"


def broken_rules(written: Any, read: Any, kind: str) -> Iterator[str]:
    """Return the rules of ``read`` that a value may break, and those that are not known and differ.

    A value that is known, as ``const``, is checked itself.

    Args:
        kind: JSON type of what is written, or ``ANYTHING``.
    """
    if kind in ("integer", "number", ANYTHING):
        yield from _bounds(written, read, kind)
    for each, noun in _LENGTHS.items():
        if kind in (each, ANYTHING):
            yield from _lengths(written, read, noun)
    for rule, kinds in _OTHERS.items():
        if kind in (*kinds, ANYTHING) and read.get(rule) and not _keeps(rule, written, read[rule]):
            own = f"{rule} {json_of(written[rule])}" if rule in written else f"no {rule}"
            yield f"has {own}, expected {json_of(read[rule])}"
    for rule in sorted((rules_of(written) | rules_of(read)) - COMPARED):
        if rule not in written or rule not in read or written[rule] != read[rule]:
            own, other = (json_of(each[rule]) if rule in each else "none" for each in (written, read))
            yield f"has {rule} {own}, expected {other}"


def _bounds(written: Any, read: Any, kind: str) -> Iterator[str]:
    for word, sign, signs in (("Minimum", 1, (">=", ">")), ("Maximum", -1, ("<=", "<"))):
        own, other = (_bound(each, word, sign, kind == "integer") for each in (written, read))
        if own < other:
            what = f"any {kind}" if own[0] == -math.inf else _shown(own, sign, signs)
            if "const" in written:
                what = json_of(written["const"])
            yield f"may be {what}, expected {_shown(other, sign, signs)}"


def _bound(schema: Any, word: str, sign: int, is_integer: bool) -> tuple[float, bool]:
    """Return a bound and whether it is exclusive. Upper bounds are negated, so that a stricter one is always greater."""
    if isinstance(value := schema.get("const"), int | float):
        return sign * value, False
    least: tuple[float, bool] = max(
        (sign * schema.get(word.lower(), -sign * math.inf), False),
        (sign * schema.get(f"exclusive{word}", -sign * math.inf), True),
    )
    if is_integer and least[0] != -math.inf:  # gt=0 is ge=1
        return (math.floor(least[0]) + 1 if least[1] else math.ceil(least[0])), False
    return least


def _shown(bound: tuple[float, bool], sign: int, signs: tuple[str, str]) -> str:
    return f"{signs[bound[1]]} {json_of(sign * bound[0])}"


def _lengths(written: Any, read: Any, noun: str) -> Iterator[str]:
    value = written.get("const")
    length = len(value) if isinstance(value, str | list | dict) else None
    for rule, unlimited in ((f"min{noun}", 0), (f"max{noun}", math.inf)):
        own = written.get(rule, unlimited) if length is None else length
        other = read.get(rule, unlimited)
        if (own < other) if rule.startswith("min") else (own > other):
            yield f"has {f'no {rule}' if own == unlimited else f'{rule} {own}'}, expected {other}"


def _keeps(rule: str, written: Any, limit: Any) -> bool:
    own, value = written.get(rule), written.get("const")
    if rule == "multipleOf":
        if isinstance(value, int | float):
            own = value
        return own is not None and Decimal(str(own)) % Decimal(str(limit)) == 0
    if rule == "pattern" and isinstance(value, str):
        try:
            return re.search(limit, value) is not None
        except re.error:  # pydantic's regular expressions are those of Rust
            return False
    return bool(own == limit)


def rules_of(schema: Any) -> set[str]:
    """Return the keywords of a schema that restrict values."""
    return {each for each in schema if each not in _ANNOTATIONS and not each.startswith("x-")}


def kind_of(schema: Any) -> str:
    """Return the JSON type of a schema that is not a union, or ``ANYTHING``."""
    if not isinstance(schema, dict):
        return ANYTHING
    if "type" in schema:
        return str(schema["type"])
    kinds = {_KINDS[type(value)] for value in constants(schema) or ()}
    return kinds.pop() if len(kinds) == 1 else ANYTHING


def constants(schema: Any) -> list[Any] | None:
    """Return the values that a schema lists; None if it does not."""
    if not isinstance(schema, dict):
        return None
    if "const" in schema:
        return [schema["const"]]
    values: list[Any] | None = schema.get("enum")
    return values


def are_among(values: list[Any] | None, known: list[Any]) -> bool:
    """True if one of the values is known; in JSON, ``true`` is not 1."""
    return any(
        each == value and isinstance(each, bool) == isinstance(value, bool) for value in values or () for each in known
    )


def listed(values: list[Any]) -> str:
    return " or ".join(map(json_of, values))


def json_of(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
