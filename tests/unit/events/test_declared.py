"""Declared event types: found in every app, side by side by version, and never declared twice by mistake."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import pydantic
import pytest
from django.core.exceptions import ImproperlyConfigured
from typing_extensions import TypedDict

from django_outbox import Event, RawBytes, event_type
from django_outbox.events.declared import EventType, event_types, to_publish
from django_outbox.exceptions import InvalidMessage, MissingDependency, PayloadMismatch
from django_outbox.handlers.arguments import arguments_of
from tests.support.declaring import own_event_types


@dataclass
class Order:
    id: int


@dataclass
class OrderV2(Order):
    total: int


class PaidModel(pydantic.BaseModel):
    id: int


class PaidDict(TypedDict):
    id: int


@pytest.fixture
def own() -> Iterator[None]:
    with own_event_types():
        yield


def test_declarations_of_every_app_are_known_once_django_is_set_up() -> None:
    assert "tests.support.app.event_types" in sys.modules
    assert str(event_types.find("test.declared", "v1")) == "test.declared v1"


def test_the_decorator_leaves_the_class_as_it_is(own: None) -> None:
    assert event_type("order.created")(Order) is Order


@pytest.mark.parametrize("payload_type", [Order, PaidModel, PaidDict, list[Order], RawBytes])
def test_whatever_a_handler_can_take_can_be_declared(own: None, payload_type: Any) -> None:
    event_type("order.created")(payload_type)

    (declared,) = event_types.all()
    assert (declared.payload_type, declared.version, declared.source) == (payload_type, "v1", None)


def test_versions_are_declared_side_by_side(own: None) -> None:
    event_type("order.created", version="v10")(PaidDict)
    event_type("order.created", version="v2")(OrderV2)
    event_type("order.created")(Order)
    event_type("order.changed", source="shop")(Order)

    assert [str(each) for each in event_types.all()] == [
        "order.changed v1 of shop",
        "order.created v1",
        "order.created v2",
        "order.created v10",
    ]


def test_services_may_have_the_same_type_and_version(own: None) -> None:
    event_type("order.created")(Order)
    event_type("order.created", source="shop2")(OrderV2)
    event_type("order.created", source="shop3")(PaidDict)

    assert [str(each) for each in event_types.all()] == [
        "order.created v1",
        "order.created v1 of shop2",
        "order.created v1 of shop3",
    ]
    found = [event_types.find("order.created", "v1", source) for source in (None, "tests", "shop2", "shop4")]
    assert [each and each.payload_type for each in found] == [Order, Order, OrderV2, None]


def test_this_service_may_be_named(own: None) -> None:
    event_type("order.created", source="tests")(Order)

    assert [each and each.payload_type for each in (event_types.find("order.created", "v1"),)] == [Order]
    assert event_types.own("order.created").keys() == {"v1"}


def test_what_other_services_publish_is_not_own(own: None) -> None:
    event_type("order.created", source="shop2")(Order)

    assert not event_types.own("order.created")
    assert event_types.is_declared("order.created")


def test_two_classes_for_one_version_are_refused(own: None) -> None:
    event_type("order.created")(Order)

    with pytest.raises(TypeError, match=r"order.created v1 is declared twice, as .*\.Order and as .*\.OrderV2\. Give"):
        event_type("order.created")(OrderV2)


def test_a_module_may_be_imported_again(own: None) -> None:
    def declare() -> type:
        @event_type("order.created")
        @dataclass
        class Again:
            id: int

        return Again

    declare()
    again = declare()

    (declared,) = event_types.all()
    assert declared.payload_type is again


def test_a_module_that_declares_a_list_of_its_class_may_be_imported_again(own: None) -> None:
    def declare() -> None:
        @dataclass
        class Again:
            id: int

        event_type("order.created")(list[Again])

    declare()
    declare()

    assert len(event_types.all()) == 1
    with pytest.raises(TypeError, match=r"is declared twice, as list\[Again\] and as list\[Order\]"):
        event_type("order.created")(list[Order])


@pytest.mark.parametrize("arguments", [{"name": ""}, {"name": 1}, {"version": None}, {"version": ""}, {"source": ""}])
def test_arguments_that_are_not_text_are_refused(own: None, arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"must be text, as in @event_type"):
        event_type(**{"name": "order.created", **arguments})


def test_without_pydantic_the_declaration_says_what_to_install(own: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic", None)  # as if it were not installed

    with pytest.raises(MissingDependency, match=r"order.created is declared .* 'django-kafka-outbox\[typed\]'"):
        event_type("order.created")(Order)


def test_a_type_that_cannot_be_validated_says_which_event_type_it_is_for(own: None) -> None:
    event_type("order.created")(type("Other", (), {}))

    with pytest.raises(
        ImproperlyConfigured, match=r"The event type order.created v1 is declared as Other, which cannot"
    ):
        _ = event_types.all()[0].payload


@dataclass
class Misspelled:
    id: NoSuchType  # type: ignore[name-defined]  # noqa: F821


@dataclass
class Unmatched:
    id: Annotated[str, pydantic.Field(pattern="(")]


@pytest.mark.parametrize(
    ("payload_type", "reason"),
    [
        (Misspelled, r"name 'NoSuchType' is not defined$"),
        (Unmatched, r"Unmatched is not a type that .* unclosed group$"),
    ],
)
def test_a_class_that_pydantic_refuses_says_why_in_one_line(own: None, payload_type: Any, reason: str) -> None:
    event_type("order.created")(payload_type)

    with pytest.raises(ImproperlyConfigured, match=rf"^The event type order.created v1 is declared as .*{reason}"):
        _ = event_types.all()[0].payload


# The version of a payload


def chosen(name: str, version: str, payload: Any) -> EventType:
    return to_publish(event_types.own(name), version, payload)


@pytest.fixture
def both(own: None) -> None:
    event_type("order.created")(Order)
    event_type("order.created", version="v2")(OrderV2)


@pytest.mark.parametrize(
    ("payload", "version", "found"),
    [
        (Order(1), "v1", "v1"),
        (OrderV2(1, 2), "v1", "v2"),  # v1 is the default of publish()
        (OrderV2(1, 2), "v2", "v2"),
        ({"id": 1}, "v1", "v1"),
        ({"id": 1, "total": 2}, "v2", "v2"),
    ],
)
def test_an_instance_has_the_version_of_its_class(both: None, payload: Any, version: str, found: str) -> None:
    assert chosen("order.created", version, payload).version == found


def test_a_subclass_has_the_version_of_the_nearest_declared_class(both: None) -> None:
    class Special(OrderV2):
        pass

    assert chosen("order.created", "v1", Special(1, 2)).version == "v2"


@pytest.mark.parametrize(("first", "second"), [(dict, PaidDict), (PaidDict, dict), (object, Order), (list, list[int])])
def test_values_of_builtin_types_have_no_version_of_their_own(own: None, first: Any, second: Any) -> None:
    event_type("order.created")(first)
    event_type("order.created", version="v2")(second)

    for payload in ({"id": 1}, [1], 1):
        assert [chosen("order.created", version, payload).version for version in ("v1", "v2")] == ["v1", "v2"]


def test_a_class_may_be_declared_for_several_types_and_versions(own: None) -> None:
    for name, version in (("order.created", "v2"), ("order.created", "v3"), ("order.changed", "v1")):
        event_type(name, version=version)(Order)

    assert chosen("order.created", "v3", Order(1)) is event_types.find("order.created", "v3")
    assert chosen("order.changed", "v1", Order(1)) is event_types.find("order.changed", "v1")
    with pytest.raises(InvalidMessage, match=r"^version: Order is declared as v2 and v3, got 'v1'; pass one of them"):
        chosen("order.created", "v1", Order(1))


def test_a_version_that_contradicts_the_class_is_refused(both: None) -> None:
    with pytest.raises(InvalidMessage, match=r"^version: Order is declared as v1, got 'v2'; omit version$"):
        chosen("order.created", "v2", Order(1))


def test_a_version_that_is_not_declared_is_refused(both: None) -> None:
    with pytest.raises(InvalidMessage) as error:
        chosen("order.created", "v3", {"id": 1})
    assert str(error.value) == (
        "version: 'v3' of 'order.created' is not declared (declared: v1, v2). "
        'Add @event_type("order.created", version="v3")'
    )


def test_types_that_are_not_declared_have_no_versions(both: None) -> None:
    assert not event_types.own("order.paid")


# Handlers


def ship(order: Order | OrderV2) -> None: ...


def ship_or_delete(order: PaidDict | OrderV2 | None) -> None: ...


def taken(function: Any, payload: Any, version: str, source: str = "tests") -> Any:
    event = Event(type="order.created", payload=payload, version=version, source=source)
    (value,) = arguments_of(function).of(event)
    return value


def test_a_handler_of_several_versions_gets_the_one_that_the_event_has(both: None) -> None:
    payload = {"id": 1, "total": 2}  # fits both, as fields that a type does not have are ignored

    assert taken(ship, payload, "v1") == Order(1)
    assert type(taken(ship, payload, "v1")) is Order
    assert taken(ship, payload, "v2") == OrderV2(1, 2)


def test_a_payload_that_does_not_fit_its_version_is_a_mismatch_even_if_another_fits(both: None) -> None:
    with pytest.raises(PayloadMismatch, match=r"not a valid OrderV2: total: Field required"):
        taken(ship, {"id": 1}, "v2")


def test_other_versions_and_types_are_chosen_by_what_fits(both: None) -> None:
    assert taken(ship, {"id": 1, "total": 2}, "v3") == OrderV2(1, 2)
    assert taken(ship_or_delete, None, "v2") is None
    assert taken(ship_or_delete, {"id": 1}, "v1") == {"id": 1}  # Order, as which v1 is declared, is not taken here


@dataclass
class Theirs:
    number: str


def ship_all(order: Order | Theirs) -> None: ...


def test_the_class_of_one_service_is_not_that_of_another(both: None) -> None:
    assert taken(ship_all, {"number": "A7"}, "v1", "shop2") == Theirs("A7")  # not declared: what fits
    event_type("order.created", source="shop2")(Theirs)

    assert taken(ship_all, {"number": "A7", "id": 7}, "v1", "shop2") == Theirs("A7")
    assert taken(ship_all, {"number": "A7", "id": 7}, "v1") == Order(7)
