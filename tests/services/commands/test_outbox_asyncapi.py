"""outbox_asyncapi prints documents that AsyncAPI's own JSON Schema accepts, with whatever a project declares and sets."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import pytest
from django.core.management import call_command

from django_outbox import RawBytes, event_type
from tests.support.asyncapi import dangling_references, faults_of
from tests.support.declaring import handler_of, only_handlers, own_event_types
from tests.support.overrides import outbox_settings
from tests.support.serializing import ORDER, avro_settings, json_schema_settings

SECRET = "s3cr3t"


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Item:
    """A line of an order."""

    sku: str
    price: Decimal
    parts: list[Item] = field(default_factory=list)


class Card(pydantic.BaseModel):
    kind: Literal["card"]
    number: str = pydantic.Field(pattern=r"^\d+$", examples=["4111"])


class Cash(pydantic.BaseModel):
    kind: Literal["cash"] = "cash"


@dataclass
class Order:
    id: Annotated[int, pydantic.Field(ge=1)]
    items: list[Item]
    place: tuple[int, str, date]
    paid: Annotated[Card | Cash, pydantic.Field(discriminator="kind")]
    discriminator: str = ""
    placed: datetime | None = None
    colour: Colour = Colour.RED
    more: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(autouse=True)
def declared() -> Iterator[None]:
    handlers = [handler_of("order.created"), handler_of("order.created", group="Bücher & co"), handler_of("other")]
    with own_event_types(), only_handlers(*handlers):
        event_type("order.created")(Order)
        event_type("order.created", version="v2")(Item)
        event_type("Straße / ?", version="2026-01 é")(list[Order])
        event_type("image.made", source="images")(RawBytes)
        yield


def document() -> Any:
    out = io.StringIO()
    call_command("outbox_asyncapi", stdout=out)
    return json.loads(out.getvalue())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"WIRE_FORMAT": "envelope"},
        {"ROUTES": {"order.*": "orders", "*": "every-thing_else.here"}},
        {"INBOX": {"outbox": "tests.support.app.legacy.to_event"}},
        *(
            {"BROKER": {"URL": f"{scheme}://ada:{SECRET}@one:9092,two,[::1]:9093/?sasl_mechanism={mechanism}"}}
            for scheme in ("kafka+sasl", "kafka+sasl+ssl")
            for mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI", "OAUTHBEARER")
        ),
        {"BROKER": {"URL": "kafka+ssl://one"}},
    ],
    ids=str,
)
def test_a_document_is_valid(changes: dict[str, Any]) -> None:
    with outbox_settings(**changes):
        printed = document()

    assert faults_of(printed) == []
    assert dangling_references(printed) == []
    assert SECRET not in json.dumps(printed)


def test_a_document_with_avro_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "order.avsc"
    path.write_text(json.dumps(ORDER))
    with outbox_settings(SERIALIZERS=avro_settings("http://127.0.0.1:1", schema=path)):
        printed = document()

    assert printed["components"]["messages"]["order.created.v1"]["payload"]["schema"] == ORDER
    assert faults_of(printed) == []


def test_a_document_with_a_json_schema_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "order.json"
    path.write_text('{"properties": {"a": {"$ref": "#/definitions/A"}}, "definitions": {"A": {"type": "string"}}}')
    with outbox_settings(SERIALIZERS={"order.*": json_schema_settings(path)}):
        printed = document()

    assert faults_of(printed) == []
    assert dangling_references(printed) == []


def test_the_schema_finds_faults() -> None:
    printed = document()
    printed["operations"]["send.outbox"]["action"] = "publish"

    (fault,) = faults_of(printed)
    assert "send.outbox" in fault
