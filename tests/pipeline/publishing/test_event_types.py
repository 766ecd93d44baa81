"""Declared types: what does not fit is neither stored nor sent, and what fits reaches the handler as its type."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

import pydantic
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from typing_extensions import TypedDict

from django_outbox import TOMBSTONE, Event, InvalidMessage, RawBytes, event_type, publish, publish_many
from django_outbox.models import OutboxMessage
from tests.support.declaring import own_event_types
from tests.support.outbox import Pipeline, row
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db

SECRET = "s3cr3t"


@dataclass
class Item:
    sku: str
    price: Decimal


@dataclass
class Order:
    id: int
    items: list[Item] = field(default_factory=list)
    placed: datetime | None = None


@dataclass
class OrderV2:
    number: str


class Paid(TypedDict):
    id: int


class Shipped(pydantic.BaseModel):
    order_id: int = pydantic.Field(alias="orderId")


@dataclass
class Changed:
    id: int
    currency: str


def ship_changed(order: Changed) -> None: ...


@pytest.fixture(autouse=True)
def declared() -> Iterator[None]:
    with own_event_types():
        event_type("order.created")(Order)
        event_type("order.created", version="v2")(OrderV2)
        event_type("order.paid", version="v3")(Paid)
        event_type("order.shipped")(Shipped)
        event_type("image.made")(RawBytes)
        yield


def published(event_type: str, payload: Any, **options: Any) -> OutboxMessage:
    with transaction.atomic():
        return publish(event_type, payload, **options)


@pytest.mark.parametrize(
    ("event_type", "payload", "stored"),
    [
        ("order.created", Order(7), {"id": 7, "items": [], "placed": None}),
        ("order.created", {"id": 7}, {"id": 7}),
        ("order.created", {"id": 7, "items": [Item("a", Decimal("1.50"))]}, {"id": 7, "items": [{"sku": "a", "price": "1.50"}]}),
        ("order.created", {"id": 7, "unknown": 1}, {"id": 7, "unknown": 1}),
        ("order.shipped", Shipped(orderId=7), {"orderId": 7}),
        ("order.shipped", {"orderId": "7"}, {"orderId": "7"}),  # pydantic models follow their own configuration
        ("order.other", {"any": "thing"}, {"any": "thing"}),
    ],
)  # fmt: skip
def test_what_fits_is_stored_as_it_is(event_type: str, payload: Any, stored: Any) -> None:
    assert row(published(event_type, payload)).payload == stored


@pytest.mark.parametrize(
    ("event_type", "payload", "field", "reason"),
    [
        ("order.created", {}, "payload.id", "it does not fit Order: Field required"),
        (
            "order.created",
            {"id": SECRET},
            "payload.id",
            "it does not fit Order: Input should be a valid integer, found str",
        ),
        ("order.created", {"id": 7, "items": [{"sku": "a", "price": SECRET}]}, "payload.items[0].price", None),
        ("order.created", Order(SECRET), "payload.id", None),  # type: ignore[arg-type]
        ("order.created", [SECRET], "payload", None),
        ("order.created", None, "payload", None),
        ("order.shipped", {"order_id": 7}, "payload.orderId", "it does not fit Shipped: Field required"),
        ("order.created", RawBytes(SECRET.encode()), "payload", None),
        ("image.made", {"a": SECRET}, "payload", None),
    ],
)
def test_what_does_not_fit_is_refused_by_its_field_and_never_by_its_value(
    event_type: str, payload: Any, field: str, reason: str | None
) -> None:
    with pytest.raises(InvalidMessage) as error:
        published(event_type, payload)

    assert error.value.field == field
    assert reason in (None, error.value.reason)
    shown: BaseException | None = error.value
    while shown is not None:
        assert SECRET not in str(shown)
        shown = shown.__cause__ or shown.__context__
    assert not OutboxMessage.objects.exists()


@dataclass
class Failing:
    id: int

    def __post_init__(self) -> None:
        raise KeyError(SECRET)


def test_an_exception_of_the_class_is_an_invalid_message_that_does_not_show_it() -> None:
    event_type("order.failing")(Failing)

    with pytest.raises(InvalidMessage, match=r"^payload: it does not fit Failing: its class raised KeyError$") as error:
        published("order.failing", {"id": 7})
    assert error.value.__cause__ is error.value.__context__ is None


def test_the_transaction_can_go_on() -> None:
    with transaction.atomic():
        with pytest.raises(InvalidMessage):
            publish("order.created", {})
        publish("order.created", {"id": 7})

    assert OutboxMessage.objects.count() == 1


def test_bytes_and_tombstones() -> None:
    assert published("image.made", RawBytes(b"x", "image/png")).content_type == "image/png"
    assert published("order.paid", TOMBSTONE, key="7").event_version == "v1"  # nothing to check
    assert published("order.created", TOMBSTONE, key="7").content_type == ""


@pytest.mark.parametrize(
    ("event_type", "payload", "options", "version"),
    [
        ("order.created", Order(7), {}, "v1"),
        ("order.created", OrderV2("A7"), {}, "v2"),
        ("order.created", {"number": "A7"}, {"version": "v2"}, "v2"),
        ("order.paid", Paid(id=7), {"version": "v3"}, "v3"),
    ],
)
def test_the_version_is_stored_and_sent(event_type: str, payload: Any, options: Any, version: str) -> None:
    pipeline = Pipeline()
    pipeline.on(event_type)

    assert published(event_type, payload, **options).event_version == version
    pipeline.run()

    (record,) = pipeline.broker.records("outbox")
    assert dict(record.headers)["ce_eventversion"] == version.encode()
    assert [event.version for event in pipeline.handled] == [version]


def test_a_version_that_is_not_declared_is_refused() -> None:
    with pytest.raises(
        InvalidMessage, match=r"^version: 'v1' of 'order.paid' is not declared \(declared: v3\)\. Add @event"
    ):
        published("order.paid", {"id": 7})


def test_a_declared_version_that_no_column_holds_is_refused_as_one_that_is_given() -> None:
    for version, reason in (("v" * 33, "it has 33 characters; at most 32"), ("v\0", "it contains a NUL character")):
        with own_event_types():
            event_type("order.created", version=version)(Order)
            with pytest.raises(InvalidMessage, match=rf"^version: {reason}"):
                published("order.created", Order(7))


def test_publish_many_names_the_event_that_does_not_fit() -> None:
    events = [Event(type="order.created", payload=each) for each in (OrderV2("A7"), {"id": 7}, {})]

    with transaction.atomic(), pytest.raises(InvalidMessage, match=r"^payload.id: .* \(event number 3\)$"):
        publish_many(events)
    with transaction.atomic():
        assert [each.event_version for each in publish_many(events[:2])] == ["v2", "v1"]


# EVENT_TYPES = "required"


def test_undeclared_types_are_refused_where_declarations_are_required() -> None:
    with outbox_settings(EVENT_TYPES="required"):
        published("order.created", Order(7))
        for payload in ({"a": 1}, RawBytes(b"x"), TOMBSTONE):
            with pytest.raises(InvalidMessage, match=r"^event_type: 'order.other' is not declared; declare it"):
                published("order.other", payload, key="7")

    assert OutboxMessage.objects.count() == 1


def test_what_another_service_publishes_is_not_declared_for_this_one() -> None:
    event_type("payment.received", source="payments")(Order)
    event_type("order.paid", version="v3", source="payments")(Order)

    published("payment.received", {"any": "thing"})  # the class is not for these
    published("order.paid", {"id": 7}, version="v3")
    with outbox_settings(EVENT_TYPES="required"):
        published("order.paid", {"id": 7}, version="v3")
        with pytest.raises(
            InvalidMessage,
            match=r"^event_type: 'payment.received' is declared as an event of payments; this service is tests$",
        ):
            published("payment.received", {"id": 7})


def test_an_invalid_setting_is_refused() -> None:
    with outbox_settings(EVENT_TYPES="all"), pytest.raises(ImproperlyConfigured, match="EVENT_TYPES"):
        published("order.other", {})


# Handlers


def test_a_handler_gets_the_declared_type_by_its_annotation_and_the_version() -> None:
    taken: list[Any] = []

    def ship(order: Order | OrderV2, event: Event) -> None:
        taken.append((event.version, order, event.payload))

    pipeline = Pipeline()
    pipeline.on("order.created", ship)
    pipeline.on("order.created")  # without an annotation: the event, as if nothing were declared
    published("order.created", OrderV2("A7"))
    published("order.created", Order(7))
    pipeline.run()

    assert taken == [("v2", OrderV2("A7"), {"number": "A7"}), ("v1", Order(7), {"id": 7, "items": [], "placed": None})]
    assert [event.payload for event in pipeline.handled] == [{"number": "A7"}, {"id": 7, "items": [], "placed": None}]


def test_a_stored_payload_that_no_longer_fits_is_a_dead_letter_that_names_the_field() -> None:
    message = published("order.created", Order(7), max_retry=1)
    with own_event_types():
        event_type("order.created")(Changed)
        pipeline = Pipeline()
        pipeline.on("order.created", ship_changed)
        pipeline.run()

    assert row(message).status == "dead"
    assert "The payload is not a valid Changed: currency: Field required" in row(message).last_error
