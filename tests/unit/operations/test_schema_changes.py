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


Tagged = Annotated[Card | Cash, pydantic.Field(discriminator="kind")]

TYPES: list[Any] = [
    *(int, float, str, bool, None, Any, Decimal, date, datetime, UUID),
    *(int | None, int | str, str | None, Literal["a"], Literal["a", "b"], Literal[1, 2], Literal["a", 1]),
    *(Annotated[int, pydantic.Field(ge=1)], Annotated[int, pydantic.Field(ge=0, lt=5)]),
    *(Annotated[str, pydantic.Field(max_length=3)], Annotated[str, pydantic.Field(pattern="^a+$")]),
    *(list[int], list[str], list[int | None], list[Any], tuple[int, str], tuple[int, int], tuple[int, ...]),
    *(dict[str, int], dict[str, str], dict[str, Any]),
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


@pytest.mark.parametrize(
    ("written", "read", "problems"),
    [
        (Small, WithDefault, []),
        (Large, Small, []),
        (Large, WithDefault, []),
        (int, float, []),
        (int, int | None, []),
        (Literal["a"], Literal["a", "b"], []),
        (Literal["a"], str, []),
        (Card, Tagged, []),
        (list[int], list[int | None], []),
        (Small, Large, ["name: it is not written, and readers require it"]),
        (WithDefault, Large, ["name: it may be missing, and readers require it"]),
        (Small, Other, ["id: it is written as integer, and read as string"]),
        (Small, int, ["the payload: it is written as object, and read as integer"]),
        (int | None, int, ["the payload: it is written as null, and read as integer"]),
        (Literal["a", "b"], Literal["a"], ['the payload: it may be "b", and is read as "a"']),
        (str, Literal["a", "b"], ['the payload: it may be any string, and is read as "a" or "b"']),
        (Nested, NestedLarge, ["items[*].name: it is not written, and readers require it"]),
        (TreeOfText, Tree, []),
        (Large, Strict, ["name: it is written, and readers refuse unknown fields"]),
        (dict[str, str], dict[str, int], ["*: it is written as string, and read as integer"]),
        (tuple[int, str], tuple[int, int], ["[1]: it is written as string, and read as integer"]),
        (str, date, ['the payload: it has no format, and readers require format "date"']),
        (datetime, date, ['the payload: its format is "date-time", and readers require "date"']),
        (dict[str, int], Strict, ["id: it is not written, and readers require it", "*: it may be written, and readers refuse it"]),
        (Literal["a", 1], int | str, []),
        (
            Annotated[int, pydantic.Field(ge=0)],
            Annotated[int, pydantic.Field(ge=1)],
            ["the payload: its minimum is 0, and readers require 1"],
        ),
        (float, int | str, ["the payload: it may be number, and is read as integer or string"]),
    ],
)  # fmt: skip
def test_a_problem_names_the_field_and_both_sides(written: Any, read: Any, problems: list[str]) -> None:
    own, other = schema_of(written), schema_of(read)

    assert broken_reads(own, own, other, other) == problems
