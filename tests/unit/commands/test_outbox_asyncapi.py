"""outbox_asyncapi prints what a project publishes and handles, without secrets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError

from django_outbox import RawBytes, event_type
from django_outbox.events.writer import Outgoing, encode
from tests.support.asyncapi import Item, Larger, Order, dangling_references, printed
from tests.support.declaring import handler_of
from tests.support.serializing import ORDER, avro_settings, json_schema_settings

pytestmark = pytest.mark.usefixtures("own_orders")

SECRET = "s3cr3t"


OUTGOING = Outgoing(
    *(7, "tests", "018f4d9e-7c1b-7000-8000-0123456789ab", "order.created", "v2", "orders", "7", "{}"),
    *("2026-01-31T14:30:00Z", 0, '{"id": 7}'),
)


def uses(document: Any) -> dict[str, tuple[str, list[str]]]:
    """Of each operation, its topic and the names of its messages."""
    found = {}
    for name, operation in document["operations"].items():
        channel = document["channels"][operation["channel"]["$ref"].removeprefix("#/channels/")]
        messages = [reference["$ref"].rpartition("/")[2] for reference in operation["messages"]]
        assert set(messages) <= channel["messages"].keys()
        found[name] = (channel["address"], messages)
    return found


def test_declared_types_are_sent_and_types_with_handlers_received() -> None:
    event_type("order.created")(Order)
    event_type("order.created", version="v2")(Larger)
    event_type("stock.changed", source="warehouse")(Item)
    document = printed(
        handler_of("order.created", group="books"),
        handler_of("order.created", group="books"),
        handler_of("stock.changed", topic="stock"),
        handler_of("unknown.type"),
    )

    assert uses(document) == {
        "send.orders": ("orders", ["order.created.v1", "order.created.v2"]),
        "receive.tests.stock": ("stock", ["stock.changed.v1"]),
        "receive.tests.outbox": ("outbox", ["unknown.type"]),
        "receive.books.orders": ("orders", ["order.created.v1", "order.created.v2"]),
    }
    assert document["operations"]["receive.books.orders"]["bindings"]["kafka"]["groupId"]["enum"] == ["books"]
    assert document["info"]["title"] == "tests"
    assert document["info"]["version"] == "1.0.0"
    assert printed(options=["--api-version", "2.1"])["info"]["version"] == "2.1"


def test_messages_have_the_schema_of_their_type_and_version() -> None:
    event_type("order.created")(Order)
    event_type("order.created", version="v2")(Larger)
    document = printed()

    message = document["components"]["messages"]["order.created.v2"]
    assert message["payload"] == {"$ref": "#/components/schemas/order.created.v2"}
    assert message["contentType"] == "application/json"
    assert message["title"] == "order.created v2"
    schemas = document["components"]["schemas"]
    assert schemas.keys() == {f"order.created.{each}" for each in ("v1", "v1.Item", "v2", "v2.Item")}
    assert schemas["order.created.v2"]["required"] == ["id", "currency"]
    items = {"$ref": "#/components/schemas/order.created.v2.Item"}
    assert schemas["order.created.v2"]["properties"]["items"]["items"] == items


def test_own_events_have_all_headers_of_the_outbox() -> None:
    event_type("order.created", version="v2")(Order)
    event_type("stock.changed", source="warehouse")(Item)
    messages = printed(handler_of("stock.changed"), handler_of("unknown.type"))["components"]["messages"]

    own = messages["order.created.v2"]["headers"]
    record = encode(OUTGOING, wire_format="cloudevents")
    assert {name for name, _ in record.headers} == {*own["required"], "ce_subject", "content-type"}
    for name, value in record.headers:
        assert own["properties"].get(name, {}).get("const", value.decode()) == value.decode()
    required = ["ce_specversion", "ce_type", "ce_source", "ce_id"]  # of every CloudEvent
    stock = messages["stock.changed.v1"]
    assert stock["title"] == "stock.changed v1 of warehouse"
    assert stock["headers"]["required"] == messages["unknown.type"]["headers"]["required"] == required
    assert stock["headers"]["properties"]["ce_source"] == {"const": "warehouse"}


@pytest.mark.parametrize("serializers", [{}, {"*": json_schema_settings("{event_type}.json")}], ids=["json", "file"])
def test_bytes_have_no_schema(serializers: Any) -> None:
    event_type("image.made")(RawBytes)

    message = printed(SERIALIZERS=serializers)["components"]["messages"]["image.made.v1"]
    assert "payload" not in message
    assert message["contentType"] == "application/octet-stream"


def test_names_that_give_the_same_key_stay_apart() -> None:
    event_type("a/b")(Order)
    event_type("a?b")(Order)

    messages = printed(handler_of("a/b.v1"))["components"]["messages"]
    assert {key: message["name"] for key, message in messages.items()} == {
        "a-b.v1": "a/b",
        "a-b.v1-2": "a?b",
        "a-b.v1-3": "a/b.v1",
    }


def test_the_envelope_is_described_as_it_is_sent() -> None:
    event_type("order.created", version="v2")(Order)
    event_type("stock.changed", source="warehouse")(Item)

    document = printed(handler_of("stock.changed"), handler_of("unknown.type"), WIRE_FORMAT="envelope")
    messages = document["components"]["messages"]
    own = messages["order.created.v2"]
    record = encode(OUTGOING, wire_format="envelope")
    assert {name for name, _ in record.headers} == {*own["headers"]["required"], "content-type"}
    assert record.value is not None
    assert json.loads(record.value).keys() == own["payload"]["properties"].keys()
    assert own["payload"]["properties"]["payload"] == {"$ref": "#/components/schemas/order.created.v2"}
    assert own["payload"]["properties"]["event_version"] == {"const": "v2"}
    assert messages["stock.changed.v1"]["payload"] == {"$ref": "#/components/schemas/stock.changed.v1"}
    # It may be an own type, which is not declared, or that of another service, which sends no envelopes.
    assert messages["unknown.type"].keys() == {"name", "title", "bindings", "contentType"}


def test_the_format_of_a_serializer_is_named(tmp_path: Path) -> None:
    event_type("order.created")(Order)
    path = tmp_path / "order.avsc"
    path.write_text(json.dumps(ORDER))

    components = printed(SERIALIZERS=avro_settings("http://127.0.0.1:1", schema=path))["components"]
    message = components["messages"]["order.created.v1"]
    assert message["contentType"] == "application/avro"
    assert message["payload"]["schema"] == ORDER
    assert components["schemas"] == {}  # that of the class is not what is sent


@pytest.mark.parametrize(
    ("schema", "version"),
    [
        ({}, "draft-07"),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, "draft-04"),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://shop.example/order"}, "2020-12"),
    ],
    ids=str,
)
def test_references_in_a_json_schema_lead_somewhere(tmp_path: Path, schema: Any, version: str) -> None:
    event_type("a/order")(Order)
    definitions = {"I": {"type": "object", "properties": {"parts": {"$ref": "#"}, "$ref": {"const": "#/x"}}}}
    rest = {
        "properties": {"items": {"type": "array", "items": {"$ref": "#/definitions/I"}}},
        "definitions": definitions,
    }
    (tmp_path / "order.json").write_text(json.dumps({**schema, **rest}))

    document = printed(SERIALIZERS={"*": json_schema_settings(tmp_path / "order.json")})
    payload = document["components"]["messages"]["a-order.v1"]["payload"]
    assert payload["schemaFormat"] == f"application/schema+json;version={version}"
    place = "#/components/messages/a-order.v1/payload/schema"
    assert payload["schema"]["properties"]["items"]["items"] == {"$ref": f"{place}/definitions/I"}
    assert payload["schema"]["definitions"]["I"]["properties"] == {"parts": {"$ref": place}, "$ref": {"const": "#/x"}}
    assert "$id" not in payload["schema"]
    assert dangling_references(document) == []


def test_a_pattern_of_serializers_may_match_events_of_others(tmp_path: Path) -> None:
    """They have a schema here only if the project has a file with it."""
    event_type("stock.changed", source="warehouse")(Item)
    (tmp_path / "unknown.json").write_text('{"type": "string"}')
    handlers = handler_of("stock.changed"), handler_of("unknown")

    document = printed(*handlers, SERIALIZERS={"*": json_schema_settings(tmp_path / "{event_type}.json")})
    messages = document["components"]["messages"]
    assert messages["stock.changed.v1"]["contentType"] == "application/json"
    assert messages["stock.changed.v1"]["payload"] == {"$ref": "#/components/schemas/stock.changed.v1"}
    assert messages["unknown"]["payload"]["schema"] == {"type": "string"}


def test_an_own_event_needs_its_schema(tmp_path: Path) -> None:
    event_type("order.created")(Order)
    path = tmp_path / "order.created.json"
    serializers = {"*": json_schema_settings(tmp_path / "{event_type}.json")}

    with pytest.raises(CommandError, match=r"order.created.json of 'order.created' cannot be read"):
        printed(SERIALIZERS=serializers)
    path.write_text("{")
    with pytest.raises(CommandError, match=r"order.created.json is not a valid JSON schema"):
        printed(SERIALIZERS=serializers)


def test_the_records_of_a_mapper_are_not_described() -> None:
    event_type("stock.changed", source="warehouse")(Item)
    handler = handler_of("stock.changed", topic="stock")

    message = printed(handler, INBOX={"stock": "tests.support.app.legacy.to_event"})["components"]["messages"]
    assert message["stock.changed.v1"].keys() == {"name", "title", "bindings", "description"}


def test_the_same_type_of_two_services_is_two_messages() -> None:
    event_type("order.created")(Order)
    event_type("order.created", source="shop2")(Item)

    document = printed(handler_of("order.created"))

    messages = document["components"]["messages"]
    sources = {key: each["headers"]["properties"]["ce_source"]["const"] for key, each in messages.items()}
    assert sources == {"order.created.v1": "tests", "order.created.v1-2": "shop2"}
    assert uses(document)["send.orders"] == ("orders", ["order.created.v1"])


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("memory://", {}),
        ("kafka://one", {"kafka": {"host": "one:9092", "protocol": "kafka"}}),
        (
            "kafka+ssl://one:1,two:2",
            {
                "kafka": {"host": "one:1", "protocol": "kafka-secure"},
                "kafka-2": {"host": "two:2", "protocol": "kafka-secure"},
            },
        ),
        (
            f"kafka+sasl+ssl://ada:{SECRET}@one",
            {"kafka": {"host": "one:9092", "protocol": "kafka-secure", "security": [{"type": "plain"}]}},
        ),
        (
            f"kafka+sasl://ada:{SECRET}@one?sasl_mechanism=SCRAM-SHA-512&x={SECRET}",
            {"kafka": {"host": "one:9092", "protocol": "kafka", "security": [{"type": "scramSha512"}]}},
        ),
    ],
)
def test_servers_are_named_without_secrets(url: str, servers: Any) -> None:
    document = printed(BROKER={"URL": url, "OPTIONS": {"sasl_plain_password": SECRET, "ssl_password": SECRET}})

    assert document["servers"] == servers
    assert SECRET not in json.dumps(document)


def test_a_type_that_cannot_be_used_is_an_error() -> None:
    event_type("order.created")(type("Other", (), {}))

    with pytest.raises(CommandError, match=r"The event type order.created v1 is declared as Other"):
        printed()
