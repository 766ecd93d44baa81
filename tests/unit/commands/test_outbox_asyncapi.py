"""outbox_asyncapi: what a project publishes and handles, without secrets, and what a change breaks."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from django_outbox import RawBytes, event_type
from django_outbox.handlers.handler import Handler
from tests.support.declaring import handler_of, only_handlers, own_event_types
from tests.support.overrides import outbox_settings
from tests.support.serializing import ORDER, avro_settings

SECRET = "s3cr3t"


@dataclass
class Item:
    sku: str


@dataclass
class Order:
    id: int
    items: list[Item] = field(default_factory=list)


@dataclass
class Larger(Order):
    currency: str = field(kw_only=True)


@dataclass
class Smaller:
    items: list[Item] = field(default_factory=list)


@dataclass
class NumberedItem:
    sku: int


@dataclass
class OrderOfNumbers:
    id: int
    items: list[NumberedItem]


@pytest.fixture(autouse=True)
def own() -> Iterator[None]:
    with own_event_types(), outbox_settings(ROUTES={"order.*": "orders"}):
        yield


def printed(*handlers: Handler, options: Any = (), **settings: Any) -> Any:
    out = io.StringIO()
    with only_handlers(*handlers), outbox_settings(**settings):
        call_command("outbox_asyncapi", *options, stdout=out)
    return json.loads(out.getvalue())


def uses(document: Any) -> dict[str, tuple[str, list[str]]]:
    """Of each operation, its topic and the names of its messages."""
    found = {}
    for name, operation in document["operations"].items():
        channel = document["channels"][operation["channel"]["$ref"].removeprefix("#/channels/")]
        messages = [reference["$ref"].rpartition("/")[2] for reference in operation["messages"]]
        assert set(messages) <= channel["messages"].keys()
        found[name] = (channel["address"], messages)
    return found


# The document


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
    assert document["info"] == {"title": "tests", "version": "1.0.0"}
    assert printed(options=["--api-version", "2.1"])["info"]["version"] == "2.1"


def test_messages_have_the_schema_of_their_type_and_version() -> None:
    event_type("order.created")(Order)
    event_type("order.created", version="v2")(Larger)
    document = printed()

    message = document["components"]["messages"]["order.created.v2"]
    assert message["payload"] == {"$ref": "#/components/schemas/order.created.v2"}
    assert message["contentType"] == "application/json"
    assert message["headers"]["properties"]["ce_type"] == {"const": "order.created"}
    assert message["headers"]["properties"]["ce_eventversion"] == {"const": "v2"}
    schemas = document["components"]["schemas"]
    assert schemas.keys() == {f"order.created.{each}" for each in ("v1", "v1.Item", "v2", "v2.Item")}
    assert schemas["order.created.v2"]["required"] == ["id", "currency"]
    items = {"$ref": "#/components/schemas/order.created.v2.Item"}
    assert schemas["order.created.v2"]["properties"]["items"]["items"] == items


def test_bytes_have_no_schema() -> None:
    event_type("image.made")(RawBytes)

    message = printed()["components"]["messages"]["image.made.v1"]
    assert "payload" not in message
    assert message["contentType"] == "application/octet-stream"


def test_names_that_are_no_keys_of_asyncapi_stay_apart() -> None:
    event_type("a/b")(Order)
    event_type("a?b")(Order)

    messages = printed(handler_of("a/b.v1"))["components"]["messages"]
    assert {key: message["name"] for key, message in messages.items()} == {
        "a-b.v1": "a/b",
        "a-b.v1-2": "a?b",
        "a-b.v1-3": "a/b.v1",
    }


def test_the_envelope_is_described_as_it_is_sent() -> None:
    event_type("order.created")(Order)
    event_type("stock.changed", source="warehouse")(Item)

    messages = printed(handler_of("stock.changed"), WIRE_FORMAT="envelope")["components"]["messages"]
    own = messages["order.created.v1"]
    assert "headers" not in own
    assert own["payload"]["properties"]["payload"] == {"$ref": "#/components/schemas/order.created.v1"}
    assert own["payload"]["properties"]["event_version"] == {"const": "v1"}
    assert messages["stock.changed.v1"]["payload"] == {"$ref": "#/components/schemas/stock.changed.v1"}


def test_the_format_of_a_serializer_is_named(tmp_path: Path) -> None:
    event_type("order.created")(Order)
    path = tmp_path / "order.avsc"
    path.write_text(json.dumps(ORDER))

    message = printed(SERIALIZERS=avro_settings("http://127.0.0.1:1", schema=path))["components"]["messages"]
    assert message["order.created.v1"]["contentType"] == "application/avro"
    assert message["order.created.v1"]["payload"]["schema"] == ORDER


def test_the_records_of_a_mapper_are_not_described() -> None:
    event_type("stock.changed", source="warehouse")(Item)
    handler = handler_of("stock.changed", topic="stock")

    message = printed(handler, INBOX={"stock": "tests.support.app.legacy.to_event"})["components"]["messages"]
    assert message["stock.changed.v1"].keys() == {"name", "bindings", "description"}


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


# --check


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The document of a project that publishes and handles ``order.created`` as ``Order``."""
    with own_event_types():
        event_type("order.created")(Order)
        path = tmp_path / "old.json"
        path.write_text(json.dumps(printed(handler_of("order.created"))))
    return path


def check(old: Path, *handlers: Handler, **settings: Any) -> tuple[int, list[str]]:
    """The exit code and the lines, without the last one's path."""
    out = io.StringIO()
    code = 0
    try:
        with only_handlers(*handlers), outbox_settings(**settings):
            call_command("outbox_asyncapi", "--check", str(old), stdout=out, no_color=True)
    except SystemExit as exit:
        code = int(str(exit.code))
    *lines, last = out.getvalue().splitlines()
    assert last in (f"{len(lines)} breaking changes since {old}.", f"{len(lines)} breaking change since {old}.")
    return code, lines


def test_no_change_and_additions_break_nothing(old: Path) -> None:
    event_type("order.created")(Order)
    event_type("order.paid")(Item)

    assert check(old, handler_of("order.created"), handler_of("order.paid")) == (0, [])


def test_a_field_that_is_required_now_breaks_the_handlers_of_earlier_events(old: Path) -> None:
    event_type("order.created")(Larger)

    assert check(old, handler_of("order.created")) == (
        1,
        [
            "BREAKS order.created.v1: handlers cannot read earlier events: "
            "currency: it is not written, and readers require it"
        ],
    )
    assert check(old) == (0, [])  # without a handler, nobody here reads them


def test_a_field_that_is_gone_breaks_consumers(old: Path) -> None:
    event_type("order.created")(Smaller)

    assert check(old, handler_of("order.created")) == (
        1,
        ["BREAKS order.created.v1: consumers cannot read it: id: it is not written, and readers require it"],
    )


def test_a_type_of_a_field_of_an_item_breaks_both(old: Path) -> None:
    event_type("order.created")(OrderOfNumbers)

    assert check(old, handler_of("order.created")) == (
        1,
        [
            "BREAKS order.created.v1: consumers cannot read it: "
            "items[*].sku: it is written as integer, and read as string",
            "BREAKS order.created.v1: handlers cannot read earlier events: "
            "items: it may be missing, and readers require it",
            "BREAKS order.created.v1: handlers cannot read earlier events: "
            "items[*].sku: it is written as string, and read as integer",
        ],
    )


def test_a_version_that_is_gone_breaks_consumers_and_a_new_one_beside_it_does_not(old: Path) -> None:
    event_type("order.created", version="v2")(Larger)

    assert check(old) == (1, ["BREAKS order.created.v1: it is no longer sent to orders"])
    event_type("order.created")(Order)
    assert check(old) == (0, [])


def test_another_topic_and_another_format_break_consumers(old: Path) -> None:
    event_type("order.created")(Order)

    assert check(old, ROUTES={}) == (1, ["BREAKS order.created.v1: it is no longer sent to orders, but to outbox"])
    assert check(old, SERIALIZERS=avro_settings("http://127.0.0.1:1")) == (
        1,
        ["BREAKS order.created.v1: its content type is application/avro, and consumers expect application/json"],
    )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"operations": {"a": {}}}', "5", '{"operations": []}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "old.json"
    path.write_text(text)

    with pytest.raises(CommandError, match=r"old.json is not a document that outbox_asyncapi printed\.$") as error:
        check(path)
    assert error.value.returncode == 2


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"old.json cannot be read: No such file or directory\.$"):
        check(tmp_path / "old.json")
