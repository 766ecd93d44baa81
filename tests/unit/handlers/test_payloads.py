"""Payloads become what a project's types say, or it is told which field does not fit, and never its value."""

from __future__ import annotations

import collections.abc
import dataclasses
import json
import sys
import typing
from contextlib import suppress
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Interface
from typing import Annotated, Any, ClassVar, Literal, NewType, Optional, Union
from uuid import UUID
from zoneinfo import ZoneInfo

import pydantic
import pytest
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from hypothesis import given
from hypothesis import strategies as st
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypeAliasType

from django_outbox.events.payloads import RawBytes
from django_outbox.events.typed import PayloadType, name_of
from django_outbox.exceptions import MissingDependency, PayloadMismatch
from tests.support.properties import examples

SECRET = "s3cr3t"
NONE = " (a tombstone or null; to take both, annotate {} | None)"
AN_ID = "018f4d9e-7c1b-7000-8000-0123456789ab"


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Size(IntEnum):
    SMALL = 1
    LARGE = 2


class Status(models.TextChoices):
    OPEN = "o", "Open"


class Lenient(Enum):
    YES = "yes"

    @classmethod
    def _missing_(cls, value: object) -> Lenient | None:
        return cls.YES if str(value).lower() == "yes" else None


OrderId = NewType("OrderId", int)


@dataclass
class Item:
    name: str
    price: Decimal
    colour: Colour | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    id: OrderId
    items: list[Item]
    note: str = ""
    tags: set[str] = field(default_factory=set)
    placed: datetime | None = None


@dataclass
class Tree:
    value: int
    children: list[Tree] = field(default_factory=list)


@dataclass
class Special:
    kind: ClassVar[str] = "special"
    factor: InitVar[int]
    value: int
    label: InitVar[str] = "none"
    product: int = field(init=False)
    seen: list[str] = field(default_factory=list, init=False)

    def __post_init__(self, factor: int, label: str) -> None:
        self.product = self.value * factor
        self.seen.append(label)


@dataclass
class Positive:
    value: int

    def __post_init__(self) -> None:
        if self.value < 0:
            raise ValueError("the value must not be negative")


@dataclass
class Card:
    kind: Literal["card"]
    number: str


@dataclass
class Transfer:
    kind: Literal["transfer"]
    iban: str


@dataclass
class Paid:
    by: Card | Transfer


class ItemModel(pydantic.BaseModel):
    name: str
    price: Decimal


class OrderModel(pydantic.BaseModel):
    id: int
    items: list[ItemModel]
    placed: datetime | None = None

    @pydantic.field_validator("id")
    @classmethod
    def _positive(cls, value: int) -> int:
        if value < 0:
            raise ValueError("must not be negative")
        return value


class StrictModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    at: datetime
    id: UUID


@pydantic_dataclass
class PydanticItem:
    name: str
    price: Decimal


@dataclass
class Mixed:
    order: OrderModel
    more: list[PydanticItem]


class CardModel(pydantic.BaseModel):
    kind: Literal["card"]


class TransferModel(pydantic.BaseModel):
    kind: Literal["transfer"]


Discriminated = Annotated[CardModel | TransferModel, pydantic.Field(discriminator="kind")]


def convert(annotation: Any, value: Any) -> Any:
    return PayloadType(annotation).convert(value)


def misfit(annotation: Any, value: Any) -> str:
    with pytest.raises(PayloadMismatch) as error:
        convert(annotation, value)
    return str(error.value).removeprefix(f"The payload is not a valid {name_of(annotation)}: ")


# Single values


@pytest.mark.parametrize(
    ("annotation", "value", "result"),
    [
        (str, "", ""),
        (int, 10**40, 10**40),
        (bool, False, False),
        (float, 1.5, 1.5),
        (float, 2, 2.0),
        (Any, {"a": [1]}, {"a": [1]}),
        (object, None, None),
        (type(None), None, None),
        (Decimal, "1.10", Decimal("1.10")),
        (Decimal, 0.1, Decimal("0.1")),
        (Decimal, 7, Decimal(7)),
        (datetime, "2026-01-02T03:04:05.678Z", datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)),
        (datetime, "2026-01-02T03:04:05", datetime(2026, 1, 2, 3, 4, 5)),  # noqa: DTZ001
        (date, "2026-01-02", date(2026, 1, 2)),
        (time, "03:04:05", time(3, 4, 5)),
        (timedelta, "P1DT02H03M04S", timedelta(days=1, hours=2, minutes=3, seconds=4)),
        (UUID, AN_ID, UUID(AN_ID)),
        (Colour, "red", Colour.RED),
        (Size, 2, Size.LARGE),
        (Status, "o", Status.OPEN),
        (Lenient, "YES", Lenient.YES),
        (Literal["a", 1, None], 1, 1),
        (Literal["a", 1, None], None, None),
        (OrderId, 7, 7),
        (Annotated[int, "a remark"], 7, 7),
        (TypeAliasType("Ids", list[OrderId]), [7], [7]),
        (NewType("Paid", CardModel), {"kind": "card"}, CardModel(kind="card")),
        (TypeAliasType("Card", CardModel), {"kind": "card"}, CardModel(kind="card")),
        (list, [1, "a"], [1, "a"]),
        (list[int], [1, 2], [1, 2]),
        (typing.List[int], [1], [1]),  # noqa: UP006
        (collections.abc.Sequence[int], [1], [1]),
        (set[str], ["a", "a"], {"a"}),
        (frozenset[int], [1], frozenset({1})),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple, [1, "a"], (1, "a")),
        (tuple[int, str], [1, "a"], (1, "a")),
        (dict, {"a": 1}, {"a": 1}),
        (dict[str, Decimal], {"a": "1"}, {"a": Decimal(1)}),
        (dict[int, str], {"7": "a"}, {7: "a"}),
        (dict[UUID, int], {AN_ID: 1}, {UUID(AN_ID): 1}),
        (collections.abc.Mapping[str, int], {"a": 1}, {"a": 1}),
        (int | None, None, None),
        (Optional[int], 1, 1),  # noqa: UP045
        (Union[int, str], "1", "1"),  # noqa: UP007
        (float | int, 1, 1),
        (date | datetime, "2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
    ],
)
def test_value_becomes_what_its_type_says(annotation: Any, value: Any, result: Any) -> None:
    converted = convert(annotation, value)
    assert converted == result
    assert type(converted) is type(result)


@pytest.mark.parametrize(
    ("annotation", "value", "reason"),
    [
        (str, 1, "Input should be a valid string, found int"),
        (int, True, "Input should be a valid integer, found bool"),
        (int, 1.0, "Input should be a valid integer, found float"),
        (int, "1", "Input should be a valid integer, found str"),
        (bool, 1, "Input should be a valid boolean, found int"),
        (float, True, "Input should be a valid number, found bool"),
        (type(None), 1, "Input should be null, found int"),
        (Decimal, True, "Decimal input should be an integer, float, string or Decimal object, found bool"),
        (Decimal, SECRET, "Input should be a valid decimal, found str"),
        (Decimal, "Infinity", "Input should be a finite number, found str"),
        (datetime, 1, "Input should be a valid datetime, found int"),
        (datetime, SECRET, "Input should be a valid datetime, input is too short, found str"),
        (
            datetime,
            "2026-01-02",
            "Input should be a valid datetime, invalid datetime separator, expected `T`, `t`, `_` or space, found str",
        ),
        (
            date,
            "2026-02-30",
            "Input should be a valid date in the format YYYY-MM-DD, day value is outside expected range, found str",
        ),
        (
            time,
            "25:00",
            "Input should be in a valid time format, hour value is outside expected range of 0-23, found str",
        ),
        (timedelta, SECRET, "Input should be a valid duration, invalid character in hour, found str"),
        (
            timedelta,
            "P9999999999999D",
            "Input should be a valid duration, a numeric value in the duration is too large, found str",
        ),
        (UUID, SECRET, "Input should be a valid UUID, found str"),
        (ZoneInfo, SECRET, "Input should be a valid time zone, found str"),
        (IPv4Address, SECRET, "Input should be a valid IP address or network, found str"),
        (IPv4Network, "10.0.0.1/8", "Input should be a valid IP address or network, found str"),
        (IPv6Interface, f"::1/{SECRET}", "Input should be a valid IP address or network, found str"),
        (pydantic.ImportString, SECRET, "Input should be the path of something that can be imported, found str"),
        (Colour, SECRET, "Input should be 'red' or 'blue', found str"),
        (Colour, None, f"Input should be 'red' or 'blue', found None{NONE.format('Colour')}"),
        (Literal["a", "b"], SECRET, "Input should be 'a' or 'b', found str"),
        (Literal["a"], ["a"], "Input should be 'a', found list"),
        (list[int], {}, "Input should be a valid array, found dict"),
        (list[int], [1, SECRET], "[1]: Input should be a valid integer, found str"),
        (set[str], ["a", None], "[1]: Input should be a valid string, found None"),
        (set, [[]], "[0]: Set items should be hashable, found list"),
        (tuple[int, str], [1], "[1]: Field required"),
        (tuple[int, str], [1, 2], "[1]: Input should be a valid string, found int"),
        (tuple[int, str], "ab", "Input should be a valid array, found str"),
        (dict[str, int], [], "Input should be an object, found list"),
        (dict[str, list[int]], {"a b": [1, None]}, "a b[1]: Input should be a valid integer, found None"),
        (
            dict[int, int],
            {"x": 1},
            "x.[key]: Input should be a valid integer, unable to parse string as an integer, found str",
        ),
        (int | None, SECRET, "Input should be a valid integer, found str"),
        (int | str, [], "int: Input should be a valid integer, found list (and 1 more)"),
        (list[int] | int, ["x"], "list[int][0]: Input should be a valid integer, found str (and 1 more)"),
    ],
)
def test_what_does_not_fit_is_told_by_place_and_type(annotation: Any, value: Any, reason: str) -> None:
    assert misfit(annotation, value) == reason


def test_bytes_become_only_what_takes_bytes() -> None:
    raw = RawBytes(b"\xff1", "image/png")
    for annotation in (bytes, RawBytes, bytes | None, Order | RawBytes, Positive | bytes):
        assert convert(annotation, raw) is raw
    assert convert(RawBytes | None, None) is None
    assert convert(Order | RawBytes, {"id": 1, "items": []}) == Order(id=OrderId(1), items=[])
    assert misfit(Order, raw) == "Input should be an instance of Order, found RawBytes"
    assert misfit(str, raw) == "Input should be a valid string, found RawBytes"
    assert misfit(RawBytes, SECRET) == "Input should be bytes, found str"


@examples(100)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda children: st.lists(children) | st.dictionaries(st.text(), children),
        max_leaves=5,
    )
)
def test_no_json_at_all_brings_another_error_than_a_misfit(value: Any) -> None:
    for annotation in (Order, Tree, Paid, dict[int, set], tuple[Size, Colour], OrderModel, Mixed, Decimal | timedelta):
        with suppress(PayloadMismatch):
            convert(annotation, value)


# Dataclasses


def test_nested_dataclasses_are_made() -> None:
    payload = {
        "id": 7,
        "items": [{"name": "tent", "price": "12.50", "colour": "blue"}, {"name": "peg", "price": 1}],
        "tags": ["new"],
        "placed": "2026-01-02T03:04:05Z",
    }
    assert convert(Order, payload) == Order(
        id=OrderId(7),
        items=[Item("tent", Decimal("12.50"), Colour.BLUE), Item("peg", Decimal(1))],
        tags={"new"},
        placed=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    )


def test_what_django_writes_as_json_is_read_back() -> None:
    @dataclass
    class All:
        at: datetime
        on: date
        daily: time
        lasts: timedelta
        costs: Decimal
        id: UUID

    everything = All(
        datetime(2026, 1, 2, 3, 4, 5, 678000, UTC),
        date(2026, 1, 2),
        time(3, 4, 5),
        timedelta(days=-1, seconds=3, microseconds=5),
        Decimal("1.10"),
        UUID(AN_ID),
    )
    All.__annotations__ = {each.name: type(getattr(everything, each.name)) for each in dataclasses.fields(All)}
    assert convert(All, json.loads(json.dumps(vars(everything), cls=DjangoJSONEncoder))) == everything


def test_unknown_fields_are_ignored_since_publishers_may_add_some() -> None:
    assert convert(Item, {"name": "tent", "price": 1, "weight": 7, "self": 1}) == Item("tent", Decimal(1))


def test_missing_fields_take_their_default() -> None:
    order = convert(Order, {"id": 1, "items": []})
    assert (order.note, order.tags, order.placed) == ("", set(), None)


@pytest.mark.parametrize(
    ("annotation", "value", "reason"),
    [
        (Order, [], "Input should be an object, found list"),
        (Order, None, f"Input should be an object, found None{NONE.format('Order')}"),
        (Order, {"items": []}, "id: Field required"),
        (Order, {"id": 1, "items": None}, "items: Input should be a valid array, found None"),
        (
            Order,
            {"id": 1, "items": [{"name": "a", "price": 1}, {"name": "b", "price": SECRET}]},
            "items[1].price: Input should be a valid decimal, found str",
        ),
        (Order, {"id": 1, "items": [{"name": "a"}]}, "items[0].price: Field required"),
        (Order, {"id": 1, "items": [], "note": None}, "note: Input should be a valid string, found None"),
        (list[Item], [{"name": 1, "price": 1}], "[0].name: Input should be a valid string, found int"),
        (dict[str, Item], {SECRET[:1]: {"price": 1}}, "s.name: Field required"),
        (
            Tree,
            {"value": 1, "children": [{"value": 2, "children": [{"value": "x"}]}]},
            "children[0].children[0].value: Input should be a valid integer, found str",
        ),
        (list[Positive], [{"value": -7}], "[0]: Value error, the value must not be negative, found dict"),
        (
            Item | None,
            {"name": "a", "price": None},
            "price: Decimal input should be an integer, float, string or Decimal object, found None",
        ),
        (
            Paid,
            {"by": {"kind": "card", "number": 4}},
            "by.Card.number: Input should be a valid string, found int (and 2 more)",
        ),
        (Paid, {"by": SECRET}, "by.Card: Input should be an object, found str (and 1 more)"),
    ],
)
def test_field_that_does_not_fit_is_named_by_its_path(annotation: Any, value: Any, reason: str) -> None:
    assert misfit(annotation, value) == reason


def test_dataclass_may_hold_itself() -> None:
    tree = convert(Tree, {"value": 1, "children": [{"value": 2}, {"value": 3, "children": [{"value": 4}]}]})
    assert tree == Tree(1, [Tree(2), Tree(3, [Tree(4)])])


def test_the_member_of_a_union_that_fits_is_made() -> None:
    assert convert(Paid, {"by": {"kind": "transfer", "iban": "x"}}) == Paid(Transfer("transfer", "x"))


def test_fields_that_are_not_given_to_init_are_left_to_the_class() -> None:
    special = convert(Special, {"factor": 3, "value": 2, "label": "here", "product": 99, "seen": ["x"], "kind": "y"})
    assert (special.value, special.product, special.seen, special.kind) == (2, 6, ["here"], "special")
    assert misfit(Special, {"value": 2}) == "factor: Field required"
    assert misfit(Special, {"value": 2, "factor": "x"}) == "factor: Input should be a valid integer, found str"


def test_types_are_looked_at_once_and_not_for_each_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    convert_order = PayloadType(Order).convert
    for name in ("get_type_hints", "get_origin", "get_args"):
        monkeypatch.delattr(typing, name)
    assert convert_order({"id": 1, "items": [{"name": "a", "price": 1}]}).items[0].name == "a"


class Plain:
    """Not a type that pydantic knows."""


@dataclass
class HoldsSomethingElse:
    files: list[Plain]


@dataclass
class HoldsUnknown:
    it: NoSuchType  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("annotation", "named"),
    [
        (Plain, "Plain"),
        (HoldsSomethingElse, "HoldsSomethingElse"),
        (object(), "object"),
        (dict[str, Plain], r"dict\[str, Plain\]"),
    ],
)
def test_type_that_json_cannot_become_is_refused_at_once(annotation: Any, named: str) -> None:
    with pytest.raises(TypeError, match=rf"{named}.* is not a type that a payload can be validated against"):
        PayloadType(annotation)


def test_type_that_is_not_defined_is_a_name_error() -> None:
    with pytest.raises(NameError, match="NoSuchType"):
        PayloadType(HoldsUnknown)


@pytest.mark.parametrize(
    ("annotation", "name"),
    [
        (Order, "Order"),
        (list[Order], "list[Order]"),
        (Order | None, "Order | None"),
        (dict[str, tuple[int, ...]], "dict[str, tuple[int, ...]]"),
        (Literal["a", 1], "Literal['a', 1]"),
        (Any, "Any"),
        (OrderModel | Item, "OrderModel | Item"),
    ],
)
def test_types_are_named_as_people_write_them(annotation: Any, name: str) -> None:
    assert name_of(annotation) == name


# Pydantic


def test_pydantic_makes_its_own_types() -> None:
    payload = {"id": 7, "items": [{"name": "tent", "price": "12.50"}], "placed": "2026-01-02T03:04:05Z"}
    order = convert(OrderModel, payload)
    assert type(order) is OrderModel
    assert order.items == [ItemModel(name="tent", price=Decimal("12.50"))]
    assert convert(list[PydanticItem], [{"name": "peg", "price": 1}]) == [PydanticItem("peg", Decimal(1))]
    assert convert(OrderModel | None, None) is None
    assert type(convert(Discriminated, {"kind": "transfer"})) is TransferModel


def test_strict_pydantic_model_takes_as_text_what_json_has_as_text_only() -> None:
    made = convert(StrictModel, {"at": "2026-01-02T03:04:05Z", "id": AN_ID})
    assert made == StrictModel(at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), id=UUID(AN_ID))


def test_pydantic_types_may_be_fields_of_a_dataclass() -> None:
    mixed = convert(Mixed, {"order": {"id": 1, "items": []}, "more": [{"name": "a", "price": 1}]})
    assert mixed == Mixed(OrderModel(id=1, items=[]), [PydanticItem("a", Decimal(1))])
    assert misfit(Mixed, {"order": {"id": 1, "items": [{"name": "a"}]}, "more": []}) == (
        "order.items[0].price: Field required"
    )


@pytest.mark.parametrize(
    ("annotation", "value", "reason"),
    [
        (OrderModel, SECRET, "Input should be an object, found str"),
        (OrderModel, {"items": []}, "id: Field required"),
        (
            OrderModel,
            {"id": 1, "items": [{"name": "a", "price": 1}, {"name": "b", "price": SECRET}]},
            "items[1].price: Input should be a valid decimal, found str",
        ),
        (OrderModel, {"id": SECRET, "items": SECRET}, "id: Input should be a valid integer"),
        (OrderModel, {"id": -1, "items": []}, "id: Value error, must not be negative, found int"),
        (StrictModel, {"at": "2026-01-02T03:04:05Z", "id": SECRET}, "id: Input should be a valid UUID, found str"),
        (Discriminated, {"kind": SECRET}, "unknown tag, found dict"),
        (list[PydanticItem], [{"name": 5, "price": 1}], "[0].name: Input should be a valid string, found int"),
    ],
)
def test_what_pydantic_refuses_is_told_by_place_and_type(annotation: Any, value: Any, reason: str) -> None:
    assert misfit(annotation, value).startswith(reason)


def test_further_faults_that_pydantic_found_are_counted() -> None:
    assert misfit(OrderModel, {}).endswith(" (and 1 more)")


@pytest.mark.parametrize("annotation", [Order, OrderModel, Mixed, Paid, Discriminated, list[PydanticItem], StrictModel])
def test_no_value_of_a_payload_is_ever_shown(annotation: Any) -> None:
    values = [SECRET, [SECRET], {"id": SECRET, "kind": SECRET, "items": [SECRET], "by": {"kind": SECRET}, "at": SECRET}]
    for value in values:
        with pytest.raises(PayloadMismatch) as error:
            convert(annotation, value)
        shown: BaseException | None = error.value
        while shown is not None:
            assert SECRET not in str(shown)
            shown = shown.__cause__ or shown.__context__


def test_typed_payloads_without_pydantic_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic", None)  # as if it were not installed
    with pytest.raises(MissingDependency, match=r"takes Order. .* pip install 'django-kafka-outbox\[typed\]'"):
        PayloadType(Order)
