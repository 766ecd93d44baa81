"""Compares two JSON Schemas: what may be written with one of them and cannot be read with the other.

It knows the keywords that pydantic writes; all others must be equal, except annotations such as ``title``. Fields that a
schema does not name are ignored, as readers ignore them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from django_outbox.operations.schema_rules import (
    ANYTHING,
    COMPARED,
    are_among,
    broken_rules,
    constants,
    json_of,
    kind_of,
    listed,
    mismatch,
    rules_of,
)

Schema = Any  # an object, or a boolean
Pair = tuple[int, int]  # the ids of two schemas of the documents


class Problem(NamedTuple):
    """Why something written cannot be read.

    Attributes:
        place: where it is, such as ``.items[*].price``; "" for the whole.
        pair: the schemas of the place, if the reason is in them.
    """

    place: str
    reason: str = ""
    pair: Pair | None = None


def broken_reads(written: Schema, written_in: Any, read: Schema, read_in: Any) -> list[str]:
    """Return why a payload that is valid by ``written`` may not be valid by ``read``, each with the field.

    A type that is used in several places is reported at one of them.

    Args:
        written_in, read_in: the documents in which their references lead to a place.
    """
    return _Comparison(written_in, read_in).result(written, read)


class _Comparison:
    """Compares pairs of schemas, one by one, as types may contain each other in many ways.

    What a pair contains counts as readable until it is found to be broken. Then those that contain it are compared again.
    """

    def __init__(self, written_in: Any, read_in: Any) -> None:
        self._written_in = written_in
        self._read_in = read_in
        self._schemas: dict[Pair, tuple[Schema, Schema]] = {}
        self._containing: dict[Pair, set[Pair]] = {}
        self._broken: set[Pair] = set()
        self._todo: set[Pair] = set()
        self._parts: dict[int, tuple[Schema, list[Schema]]] = {}
        self._current: Pair | None = None

    def result(self, written: Schema, read: Schema) -> list[str]:
        first = self._pair(written, read)
        while self._todo:
            todo, self._todo = self._todo, set()
            for pair in todo - self._broken:
                if self._problems(pair):
                    self._broken.add(pair)
                    self._todo |= self._containing[pair]
        return self._described(first) if first in self._broken else []

    def _described(self, first: Pair) -> list[str]:
        """Return the reasons, each broken pair at the first place that leads to it."""
        found: list[str] = []
        places = {first: ""}
        for pair in (todo := [first]):
            for problem in self._problems(pair):
                place = places[pair] + problem.place
                if problem.pair is None:
                    found.append(f"{place.removeprefix('.') or 'the payload'} {problem.reason}")
                elif problem.pair not in places:
                    places[problem.pair] = place
                    todo.append(problem.pair)
        return found

    def _problems(self, pair: Pair) -> list[Problem]:
        self._current = pair
        return list(dict.fromkeys(self._compared(*self._schemas[pair])))

    def _pair(self, written: Schema, read: Schema) -> Pair:
        written, read = resolved(written, self._written_in), resolved(read, self._read_in)
        pair = (id(written), id(read))
        if pair not in self._schemas:
            self._schemas[pair] = (written, read)
            self._containing[pair] = set()
            self._todo.add(pair)
        return pair

    def _within(self, place: str, written: Schema, read: Schema) -> Iterator[Problem]:
        """Compare what is at a place of the current pair."""
        pair = self._pair(written, read)
        if self._current is not None:
            self._containing[pair].add(self._current)
        if pair in self._broken:
            yield Problem(place, pair=pair)

    def _compared(self, written: Schema, read: Schema) -> Iterator[Problem]:
        expected = list(self._alternatives(read, self._read_in))
        for each in _single_values(self._alternatives(written, self._written_in)):
            found = [self._member(each, other) for other in expected]
            if not all(found):
                continue
            near = [(them, other) for them, other in zip(found, expected, strict=True) if _are_alike(each, other)]
            if len(near) > 1:
                title = each.get("title")
                near = [(them, other) for them, other in near if title and title == other.get("title")]
            if len(expected) == 1:
                yield from found[0]
            elif len(near) == 1:
                yield from near[0][0]
            else:
                names = dict.fromkeys(_name(other, self._read_in) for other in expected)
                yield Problem("", f"may be {_name(each, self._written_in)}, expected {' or '.join(names)}")

    def _alternatives(self, schema: Schema, root: Any, above: frozenset[int] = frozenset()) -> Iterator[Schema]:
        """Take unions apart. Those with further rules are left: they must be equal, as every rule that is not known."""
        schema = resolved(schema, root)
        if id(schema) in above:  # a union may be its own member
            return
        rules = rules_of(schema) if isinstance(schema, dict) else set()
        if rules in ({"anyOf"}, {"oneOf"}):
            for each in schema[rules.pop()]:
                yield from self._alternatives(each, root, above | {id(schema)})
        elif "type" in rules and isinstance(schema["type"], list):
            parts = [{**schema, "type": each} for each in schema["type"]]
            yield from self._parts.setdefault(id(schema), (schema, parts))[1]  # always the same, as they are in pairs
        else:
            yield schema

    def _member(self, written: Schema, read: Schema) -> list[Problem]:
        """Compare two members of unions. Classes and arrays are pairs themselves, as they are members of many unions."""
        is_whole = (id(written), id(read)) == self._current
        if not is_whole and {kind_of(written), kind_of(read)} <= {"object", "array"}:
            return list(self._within("", written, read))
        return self._alternative(written, read)

    def _alternative(self, written: Schema, read: Schema) -> list[Problem]:
        """Compare two schemas that are not unions; ``written`` has a ``const`` rather than an ``enum``."""
        if read is True or written is False:
            return []
        if read is False:
            return [Problem("", "is not allowed")]
        if written is True:
            written = {}
        if tag := _other_tag(written, read):  # other fields of another class say nothing
            return [tag]
        if reason := mismatch(written, read):
            return [Problem("", reason)]
        kind = kind_of(written)
        problems = [Problem("", reason) for reason in broken_rules(written, read, kind)]
        if "contentSchema" in read:
            problems += self._within("", written.get("contentSchema", True), read["contentSchema"])
        if kind in ("object", ANYTHING):
            problems += self._fields(written, read)
        if kind in ("array", ANYTHING):
            problems += self._items(written, read)
        return problems

    def _fields(self, written: Schema, read: Schema) -> Iterator[Problem]:
        fields, expected = written.get("properties", {}), read.get("properties", {})
        patterns, known_patterns = written.get("patternProperties", {}), read.get("patternProperties", {})
        required, others = read.get("required", ()), read.get("additionalProperties", True)
        more = written.get("additionalProperties", False)
        if more is True and fields:  # a class that accepts unknown fields
            more = False
        unnamed = [*([] if more is False else [more]), *patterns.values()]
        for name in required:
            if name not in written.get("required", ()):
                state = "may be" if name in fields or unnamed else "is"
                yield Problem(f".{name}", f"{state} missing, but is required")
        for name, schema in fields.items():
            yield from self._within(f".{name}", schema, expected.get(name, others))
        for pattern, schema in patterns.items():
            yield from self._within(".*", schema, known_patterns.get(pattern, others))
        for pattern in known_patterns:
            if pattern not in patterns:
                yield Problem(".*", f"may have any name, expected pattern {json_of(pattern)}")
        if more is not False:
            yield from self._within(".*", more, others)
        for name in [each for each in expected if each not in fields and each not in required]:
            for schema in unnamed:
                yield from self._within(f".{name}", schema, expected[name])
        if "propertyNames" in read:
            names = [{"const": name} for name in fields]
            if unnamed:
                names.append(_of_text(written.get("propertyNames", {})))
            for each in names:
                for problem in self._compared(each, _of_text(read["propertyNames"])):
                    yield Problem(".(name)", problem.reason)

    def _items(self, written: Schema, read: Schema) -> Iterator[Problem]:
        longest = max(_items_named(written), _items_named(read))
        most = written.get("maxItems", longest + 1)
        for index in range(min(longest, most)):
            yield from self._within(f"[{index}]", _item(written, index), _item(read, index))
        if most > longest:
            yield from self._within("[*]", _item(written, longest), _item(read, longest))


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
        elif len(schema.get("allOf", ())) == 1 and rules_of(schema) == {"allOf"}:
            schema = schema["allOf"][0]
        else:
            break
    return schema


def _single_values(schemas: Iterable[Schema]) -> Iterator[Schema]:
    """Take enumerations apart, as each value may be read by another alternative."""
    for schema in schemas:
        values = constants(schema)
        if values is None and kind_of(schema) == "boolean":
            values = [True, False]
        if values is None:
            yield schema
        else:
            rest = {rule: value for rule, value in schema.items() if rule != "enum"}
            yield from ({**rest, "const": value} for value in values)


def _of_text(schema: Schema) -> Schema:
    """Return the schema of a name with its type, which pydantic leaves out."""
    return {"type": "string", **schema} if rules_of(schema) <= COMPARED else schema


def _other_tag(written: Schema, read: Schema) -> Problem | None:
    """Return the field, if any, that shows that these are two members of a union, such as a ``Literal["card"]``."""
    fields, expected = written.get("properties", {}), read.get("properties", {})
    for name in fields:
        own, other = constants(fields[name]), constants(expected.get(name))
        if own is not None and other is not None and not are_among(own, other):
            return Problem(f".{name}", f"may be {listed(own)}, expected {listed(other)}")
    return None


def _are_alike(written: Schema, read: Schema) -> bool:
    if not isinstance(written, dict) or not isinstance(read, dict):
        return False
    return kind_of(written) == kind_of(read) and _other_tag(written, read) is None


def _name(schema: Schema, root: Any) -> str:
    """Return how a member of a union is called: ``Card (kind "card")``, ``array of string``, ``integer``."""
    kind, values = kind_of(schema), constants(schema)
    if values is not None:
        return listed(values)
    if kind == "array" and isinstance(items := resolved(schema.get("items", True), root), dict):
        return f"array of {items.get('title') or kind_of(items)}"
    if kind != "object":
        return kind
    fields = {name: constants(each) or () for name, each in schema.get("properties", {}).items()}
    tags = ", ".join(f"{name} {json_of(*values)}" for name, values in fields.items() if len(values) == 1)
    return f"{schema.get('title', kind)}{f' ({tags})' if tags else ''}"


def _items_named(schema: Schema) -> int:
    items = schema.get("items")
    return len(items) if isinstance(items, list) else 0


def _item(schema: Schema, index: int) -> Schema:
    items = schema.get("items", True)
    if not isinstance(items, list):
        return items
    return items[index] if index < len(items) else schema.get("additionalItems", True)
