"""Two JSON Schemas: what is written with one and cannot be read with the other is found, and nothing else."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Literal
from uuid import UUID

import pydantic
import pytest
from jsonschema import Draft7Validator
from pydantic import Field
from typing_extensions import TypeAliasType, TypedDict

from django_outbox.events.typed import PayloadType
from django_outbox.operations.schema_changes import broken_reads


@dataclass
class Small:
    id: int


@dataclass
class Large:
    id: int
    name: str


@dataclass
class WithDefault:
    id: int
    name: str = ""


@dataclass
class Other:
    id: str


@dataclass
class Nested:
    id: int
    items: list[Small] = field(default_factory=list)


@dataclass
class NestedLarge:
    id: int
    items: list[Large] = field(default_factory=list)


@dataclass
class Tree:
    id: int
    children: list[Tree] = field(default_factory=list)


@dataclass
class TreeOfText:
    id: int
    name: str | None = None
    children: list[TreeOfText] = field(default_factory=list)


class Strict(pydantic.BaseModel):
    model_config = {"extra": "forbid"}
    id: int


class Card(pydantic.BaseModel):
    kind: Literal["card"]
    id: int


class Cash(pydantic.BaseModel):
    kind: Literal["cash"]


class Wire(pydantic.BaseModel):
    kind: Literal["wire"]


class NumberedCard(pydantic.BaseModel):
    model_config = {"title": "Card"}
    kind: Literal["card"]
    id: str


Tagged = Annotated[Card | Cash, Field(discriminator="kind")]


class Named(TypedDict, total=False):
    name: str


@dataclass
class TreeWithText:
    id: int
    name: str
    children: list[TreeWithText] = field(default_factory=list)


@dataclass
class Add:
    kind: Literal["add"]
    left: Add | Multiply | int
    right: Add | Multiply | int


@dataclass
class Multiply:
    kind: Literal["multiply"]
    left: Add | Multiply | int
    right: Add | Multiply | int


@dataclass
class Text:
    children: list[Text | Bold | Link] = field(default_factory=list)


@dataclass
class Bold:
    children: list[Text | Bold | Link] = field(default_factory=list)


@dataclass
class Link:
    children: list[Text | Bold | Link] = field(default_factory=list)


def chain(value: type) -> list[type]:
    """Classes that each contain the next one twice."""
    found: list[type] = [pydantic.create_model("Last", value=(value, ...))]
    for number in range(25):
        each = pydantic.create_model(f"Chain{number}", left=(found[0], ...), right=(found[0], ...))
        found.insert(0, each)
    return found


Chain, OtherChain = chain(int), chain(str)

TYPES: list[Any] = [
    *(int, float, str, bool, None, Any, Decimal, date, datetime, UUID),
    *(int | None, int | str, str | None, Literal["a"], Literal["a", "b"], Literal[1, 2], Literal["a", 1]),
    *(Annotated[int, Field(ge=1)], Annotated[int, Field(ge=0, lt=5)]),
    *(Annotated[str, Field(max_length=3)], Annotated[str, Field(pattern="^a+$")]),
    *(list[int], list[str], list[int | None], list[Any], tuple[int, str], tuple[int, int], tuple[int, ...]),
    *(dict[str, int], dict[str, str], dict[str, Any], dict[UUID, int], dict[Literal["a"], int], dict[Literal["b"], int]),
    *(dict[Annotated[str, Field(pattern="^a")], int], dict[Annotated[str, Field(max_length=1)], int], set[int], Named),
    *(Literal[True], bool | None, Annotated[int, Field(gt=0)], Annotated[float, Field(lt=7, multiple_of=0.5)]),
    *(Small, Large, WithDefault, Other, Nested, NestedLarge, Tree, TreeOfText, Strict, Card, Cash, Tagged),
    *(list[Small], list[Large], Small | None, Small | Other),
]  # fmt: skip

ONE: list[Any] = [1, 0, 2, 7, -1, 1.5, "a", "b", "aa", "long text", True, None, "1.50", "2026-01-31"]
ONE += ["2026-01-31T14:30:00Z", "018f4d9e-7c1b-7000-8000-0123456789ab", {}, [], [1], ["a"], [None], [1, "a"], [1, 2]]
ONE += [[1, 2, 3], {"a": 1}, {"a": "b"}, {"a": None}, {"id": "x"}, {"kind": "cash"}, {"kind": "card", "id": 1}]
ONE += [{"id": 1, **more} for more in ({}, {"name": "n"}, {"name": None}, {"items": [{"id": 1}]})]
ONE += [{"id": 1, "items": [{"id": 1, "name": "n"}]}, {"id": 1, "items": []}, {"id": 1, "children": [{"id": 2}]}]
ONE += [
    {"id": 1, "children": [{"id": 2, "name": "n", "children": []}]},
    {"id": 1, "name": 5},
    {"id": 1, "children": [5]},
]
SAMPLES = [*ONE, *([each] for each in ONE)]


def schema_of(annotation: Any) -> Any:
    return PayloadType(annotation).json_schema("#/$defs/{model}")


@cache
def known_schemas() -> list[tuple[Any, Any, Draft7Validator]]:
    schemas = [(each, schema_of(each)) for each in TYPES]
    return [(annotation, schema, Draft7Validator(schema)) for annotation, schema in schemas]


def written_by(annotation: Any) -> list[Any]:
    """The samples that someone with this type writes, without fields that the type does not have."""
    adapter = pydantic.TypeAdapter(annotation)
    found = []
    for sample in SAMPLES:
        with suppress(pydantic.ValidationError):
            value = adapter.validate_json(json.dumps(sample), strict=True)
            if json.loads(adapter.dump_json(value, by_alias=True, exclude_unset=True)) == sample:
                found.append(sample)
    return found


@pytest.mark.parametrize("number", range(len(TYPES)), ids=lambda number: str(TYPES[number]))
def test_what_is_said_to_be_readable_is_read(number: int) -> None:
    """Whatever is written and is not valid by a reader's schema is announced."""
    annotation, schema, validator = known_schemas()[number]
    written = [each for each in written_by(annotation) if validator.is_valid(each)]
    for read, other, reader in known_schemas():
        if not broken_reads(schema, schema, other, other):
            assert [each for each in written if not reader.is_valid(each)] == [], read


@pytest.mark.parametrize("annotation", TYPES, ids=str)
def test_a_schema_reads_what_it_writes(annotation: Any) -> None:
    schema = schema_of(annotation)

    assert broken_reads(schema, schema, schema_of(annotation), schema_of(annotation)) == []


def broken(written: Any, read: Any) -> list[str]:
    own, other = schema_of(written), schema_of(read)
    return broken_reads(own, own, other, other)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (Small, WithDefault),
        (Large, Small),
        (Large, WithDefault),
        (int, float),
        (int, int | None),
        (Literal["a"], Literal["a", "b"]),
        (Literal["a"], str),
        (Literal["a", 1], int | str),
        (Card, Tagged),
        (list[int], list[int | None]),
        (TreeOfText, Tree),
        (bool, Literal[True, False]),
        (Literal[True, False], bool),
        # Looser or equal bounds
        (Annotated[int, Field(gt=0)], Annotated[int, Field(ge=1)]),
        (Annotated[int, Field(ge=1)], Annotated[int, Field(gt=0)]),
        (Annotated[int, Field(lt=5)], Annotated[int, Field(le=4)]),
        (Annotated[float, Field(gt=0)], Annotated[float, Field(ge=0)]),
        (Annotated[float, Field(lt=0)], Annotated[float, Field(le=0)]),
        (Annotated[int, Field(ge=2, le=3)], Annotated[float, Field(gt=1, lt=4)]),
        (Annotated[int, Field(multiple_of=4)], Annotated[int, Field(multiple_of=2)]),
        (Annotated[str, Field(max_length=3)], Annotated[str, Field(max_length=4, min_length=0)]),
        (set[int], list[int]),
        # Values that are known
        (Literal["a", "bcd"], Annotated[str, Field(min_length=1, max_length=3)]),
        (Literal["aa"], Annotated[str, Field(pattern="^a+$")]),
        (Literal[4], Annotated[int, Field(ge=4, lt=5, multiple_of=2)]),
        # Keys of dicts
        (dict[UUID, int], dict[str, int]),
        (dict[UUID, int], dict[UUID | Literal["none"], int | None]),
        (dict[Literal["a"], int], dict[Literal["a", "b"], int]),
        (dict[Annotated[str, Field(pattern="^a")], int], dict[str, int]),
        (Named, dict[Literal["name", "id"], str]),
        # Annotations
        (Annotated[int, Field(title="A", examples=[1])], Annotated[int, Field(description="B")]),
        (Annotated[int, Field(json_schema_extra={"x-unit": "s"})], int),
        (Annotated[int | str, Field(json_schema_extra={"not": {}})], Annotated[int | str, Field(json_schema_extra={"not": {}})]),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_break_is_not_reported(written: Any, read: Any) -> None:
    assert broken(written, read) == []


@pytest.mark.parametrize(
    ("written", "read", "problems"),
    [
        (Small, Large, ["name is missing, but is required"]),
        (WithDefault, Large, ["name may be missing, but is required"]),
        (Small, Other, ["id is integer, expected string"]),
        (Small, int, ["the payload is object, expected integer"]),
        (int | None, int, ["the payload may be null, expected integer"]),
        (Any, int, ["the payload may be anything, expected integer"]),
        (Literal["a", "b"], Literal["a"], ['the payload may be "b", expected "a"']),
        (Literal[True], Literal[1], ["the payload may be true, expected 1"]),
        (str, Literal["a", "b"], ['the payload may be any string, expected "a" or "b"']),
        (Nested, NestedLarge, ["items[*].name is missing, but is required"]),
        (Tree, TreeWithText, ["name is missing, but is required"]),
        (Large, Strict, ["name is not allowed"]),
        (tuple[int, str], tuple[int, int], ["[1] is string, expected integer"]),
        (list[int], tuple[int, int], ["the payload has no minItems, expected 2", "the payload has no maxItems, expected 2"]),
        (str, date, ['the payload has no format, expected "date"']),
        (datetime, date, ['the payload has format "date-time", expected "date"']),
        (list[int], set[int], ["the payload has no uniqueItems, expected true"]),
        (pydantic.Json[Small], pydantic.Json[Large], ["name is missing, but is required"]),
        # Bounds
        (Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)], ["the payload may be >= 0, expected >= 1"]),
        (Annotated[float, Field(ge=0)], Annotated[float, Field(gt=0)], ["the payload may be >= 0, expected > 0"]),
        (int, Annotated[int, Field(lt=5)], ["the payload may be any integer, expected <= 4"]),
        (Literal[1, 7], Annotated[int, Field(lt=5)], ["the payload may be 7, expected <= 4"]),
        (str, Annotated[str, Field(min_length=1)], ["the payload has no minLength, expected 1"]),
        (Literal["abc"], Annotated[str, Field(max_length=2)], ["the payload has maxLength 3, expected 2"]),
        (Literal["b"], Annotated[str, Field(pattern="^a+$")], ['the payload has no pattern, expected "^a+$"']),
        (Annotated[int, Field(multiple_of=3)], Annotated[int, Field(multiple_of=2)], ["the payload has multipleOf 3, expected 2"]),
        # Dicts
        (dict[str, str], dict[str, int], ["* is string, expected integer"]),
        (dict[str, int], Strict, ["id may be missing, but is required", "* is not allowed"]),
        (dict[str, int], Named, ["name is integer, expected string"]),
        (dict[str, int], dict[UUID, int], ['(name) has no format, expected "uuid"']),
        (dict[str, int], dict[Literal["a"], int], ['(name) may be any string, expected "a"']),
        (dict[Literal["a", "b"], int], dict[Literal["a"], int], ['(name) may be "b", expected "a"']),
        (Named, dict[Literal["id"], str], ['(name) may be "name", expected "id"']),
        (dict[Annotated[str, Field(pattern="^a")], int], dict[Annotated[str, Field(pattern="^a")], str], ["* is integer, expected string"]),
        (dict[Annotated[str, Field(pattern="^a")], int], dict[Annotated[str, Field(pattern="^b")], int], ['* may have any name, expected pattern "^b"']),
        # Unions
        (float, int | str, ["the payload may be number, expected integer or string"]),
        (Tagged | Wire, Tagged, ['the payload may be Wire (kind "wire"), expected Card (kind "card") or Cash (kind "cash")']),
        (Tagged, Annotated[NumberedCard | Cash, Field(discriminator="kind")], ["id is integer, expected string"]),
        (list[int] | list[str] | list[float], list[int] | list[str], ["the payload may be array of number, expected array of integer or array of string"]),
        (list[Small] | list[Large] | list[Other], list[Small] | list[Large], ["the payload may be array of Other, expected array of Small or array of Large"]),
        # What is not known must be equal
        (Annotated[int, Field(json_schema_extra={"not": {"const": 5}})], int, ['the payload has not {"const": 5}, expected none']),
        (Annotated[int | str, Field(json_schema_extra={"not": {"const": 5}})], Annotated[int | str, Field(json_schema_extra={"not": {"const": 6}})],
            ['the payload has not {"const": 5}, expected {"const": 6}']),
    ],
)  # fmt: skip
def test_a_problem_names_the_field_and_both_sides(written: Any, read: Any, problems: list[str]) -> None:
    assert broken(written, read) == problems


def test_types_that_contain_each_other_in_many_ways_are_compared() -> None:
    for each in (Add | Multiply | int, list[Text | Bold | Link], Chain[0]):
        assert broken(each, each) == []

    assert broken(Add | Multiply | int | str, Add | Multiply | int) == [
        'the payload may be string, expected Add (kind "add") or Multiply (kind "multiply") or integer'
    ]
    last = ".".join(["left"] * (len(Chain) - 1))
    assert broken(Chain[0], OtherChain[0]) == [
        f"{last}.value is integer, expected string"
    ]  # not at each of many places


def test_a_union_may_be_its_own_member() -> None:
    loop: Any = TypeAliasType("loop", "int | loop")

    assert broken(loop, loop) == []
    assert broken(loop, str) == ["the payload is integer, expected string"]


def test_an_assumption_about_a_recursive_type_that_was_wrong_is_not_kept() -> None:
    """While A is compared, B seems to be readable, as it only contains A. That A cannot be read is known only later."""

    def schema(kind: str, others: list[Any]) -> Any:
        a = {"type": "object", "properties": {"b": {"$ref": "#/$defs/B"}, "value": {"type": kind}}}
        b = {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}}
        holder = {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}}
        properties = {"either": {"anyOf": [holder, *others]}, "b": {"$ref": "#/$defs/B"}}
        return {"$defs": {"A": a, "B": b}, "type": "object", "properties": properties}

    written, read = schema("string", []), schema("integer", [{"type": "object"}])
    assert broken_reads(written, written, read, read) == ["b.a.value is string, expected integer"]
    assert broken_reads(written, written, written, written) == []


def test_a_long_enumeration_is_compared() -> None:
    many = {"enum": list(range(1000))}

    assert broken_reads(many, many, many, many) == []
