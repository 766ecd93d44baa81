"""outbox_asyncapi --check: what breaks consumers that have the earlier document, and handlers that get earlier events."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from django_outbox import RawBytes, event_type
from django_outbox.handlers.handler import Handler
from tests.support.asyncapi import Item, Larger, Order, printed
from tests.support.declaring import handler_of, only_handlers, own_event_types
from tests.support.overrides import outbox_settings
from tests.support.serializing import avro_settings, json_schema_settings


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


pytestmark = pytest.mark.usefixtures("own_orders")

MISSING = "BREAKS order.created v1 for handlers of earlier events: currency is missing, but is required"


Earlier = Callable[..., Path]


@pytest.fixture
def earlier(tmp_path: Path) -> Earlier:
    """The file with the document of what is declared so far."""

    def write(*handlers: Handler, **settings: Any) -> Path:
        path = tmp_path / "old.json"
        path.write_text(json.dumps(printed(*handlers, **settings)))
        return path

    return write


@pytest.fixture
def old(earlier: Earlier) -> Path:
    """The document of a project that publishes and handles ``order.created`` as ``Order``."""
    with own_event_types():
        event_type("order.created")(Order)
        return earlier(handler_of("order.created"))


def check(old: Path, *handlers: Handler, **settings: Any) -> tuple[int, list[str]]:
    """The exit code and what breaks."""
    out = io.StringIO()
    code = 0
    try:
        with only_handlers(*handlers), outbox_settings(**settings):
            call_command("outbox_asyncapi", "--check", str(old), stdout=out, no_color=True)
    except SystemExit as exit:
        code = int(str(exit.code))
    lines = out.getvalue().splitlines()
    if code:
        assert lines.pop() == f"To accept, print a new document and commit it: manage.py outbox_asyncapi > {old}"
    last = lines.pop()
    assert last in (f"{len(lines)} breaking changes since {old}.", f"{len(lines)} breaking change since {old}.")
    return code, lines


def test_no_change_and_additions_break_nothing(old: Path) -> None:
    event_type("order.created")(Order)
    event_type("order.paid")(Item)

    assert check(old, handler_of("order.created"), handler_of("order.paid")) == (0, [])


# Consumers


def test_a_field_that_is_gone_breaks_consumers(old: Path) -> None:
    event_type("order.created")(Smaller)

    assert check(old, handler_of("order.created")) == (
        1,
        ["BREAKS order.created v1 for consumers: id is missing, but is required"],
    )


def test_a_type_of_a_field_of_an_item_breaks_both(old: Path) -> None:
    event_type("order.created")(OrderOfNumbers)

    assert check(old, handler_of("order.created")) == (
        1,
        [
            "BREAKS order.created v1 for consumers: items[*].sku is integer, expected string",
            "BREAKS order.created v1 for handlers of earlier events: items may be missing, but is required",
            "BREAKS order.created v1 for handlers of earlier events: items[*].sku is string, expected integer",
        ],
    )


def test_a_version_that_is_gone_breaks_consumers(old: Path) -> None:
    event_type("order.created", version="v2")(Larger)

    gone = "BREAKS order.created v1 for consumers: it is no longer declared (it was sent to orders)"
    assert check(old) == (1, [gone])
    assert check(old, handler_of("order.created")) == (
        1,
        [gone, "BREAKS order.created v1 for handlers of earlier events: it is no longer declared"],
    )


def test_a_new_version_breaks_consumers_that_read_only_the_old_one(old: Path) -> None:
    event_type("order.created")(Order)
    event_type("order.created", version="v2")(Larger)
    assert check(old) == (0, [])  # it fits v1 as well

    event_type("order.created", version="v3")(Smaller)
    new = "BREAKS order.created v3 for consumers: it is new in orders, and those who read v1 cannot read it"
    assert check(old) == (1, [new])


def test_another_topic_breaks_consumers(old: Path) -> None:
    event_type("order.created")(Order)

    assert check(old, ROUTES={}) == (
        1,
        ["BREAKS order.created v1 for consumers: it is no longer sent to orders, but to outbox"],
    )


def test_another_format_breaks_consumers_and_not_handlers(old: Path) -> None:
    event_type("order.created")(Order)
    handler = handler_of("order.created")

    problem = "BREAKS order.created v1 for consumers: the content type is application/avro, expected application/json"
    assert check(old, handler, SERIALIZERS=avro_settings("http://127.0.0.1:1")) == (1, [problem])
    problem = "BREAKS order.created v1 for consumers: it is an envelope (WIRE_FORMAT)"
    assert check(old, handler, WIRE_FORMAT="envelope") == (1, [problem])


def test_the_payload_of_an_envelope_is_compared(earlier: Earlier) -> None:
    with own_event_types():
        event_type("order.created")(Order)
        old = earlier(handler_of("order.created"), WIRE_FORMAT="envelope")
    event_type("order.created")(Larger)

    problem = "BREAKS order.created v1 for consumers: it is no longer an envelope (WIRE_FORMAT)"
    assert check(old) == (1, [problem])
    event_type("order.created", version="v2")(Order)
    assert check(old, handler_of("order.created"), WIRE_FORMAT="envelope") == (1, [MISSING])


def test_types_are_found_although_their_keys_moved(earlier: Earlier) -> None:
    with own_event_types():
        event_type("a/b")(Item)
        event_type("a?b")(Order)
        old = earlier()
    event_type("a!b")(Smaller)
    event_type("a/b")(Item)
    event_type("a?b")(Order)

    assert check(old) == (0, [])


def test_events_with_a_serializer_are_not_compared(earlier: Earlier, tmp_path: Path) -> None:
    (tmp_path / "order.json").write_text('{"type": "integer"}')
    from_file = {"order.*": json_schema_settings(tmp_path / "order.json")}
    from_registry = {"order.*": json_schema_settings("")}
    from_registry["order.*"]["OPTIONS"].pop("schema")
    event_type("order.created")(Order)
    handler = handler_of("order.created")

    for before in (from_file, from_registry):
        old = earlier(handler, SERIALIZERS=before)
        for after in (from_file, from_registry):
            assert check(old, handler, SERIALIZERS=after) == (0, [])
        assert check(old, handler)[1] == [
            "BREAKS order.created v1 for consumers: the content type is application/json, "
            "expected application/vnd.confluent.json"
        ]


# Handlers


def test_a_field_that_is_required_now_breaks_the_handlers_of_earlier_events(old: Path) -> None:
    event_type("order.created")(Larger)

    assert check(old, handler_of("order.created")) == (1, [MISSING])
    assert check(old, handler_of("order.created", topic="elsewhere", group="new")) == (1, [MISSING])
    assert check(old) == (0, [])  # without a handler, nobody here reads them


def test_a_new_handler_gets_earlier_events(earlier: Earlier) -> None:
    with own_event_types():
        event_type("order.created")(Order)
        old = earlier()
    event_type("order.created")(Larger)

    assert check(old, handler_of("order.created")) == (1, [MISSING])


def test_a_version_of_another_service_that_is_gone_breaks_its_handler(earlier: Earlier) -> None:
    handler = handler_of("stock.changed")
    with own_event_types():
        event_type("stock.changed", source="warehouse")(Item)
        old = earlier(handler)

    assert check(old, handler) == (0, [])  # nothing is declared, so nothing is known
    assert check(old) == (0, [])
    event_type("stock.changed", version="v2", source="warehouse")(Item)
    gone = "BREAKS stock.changed v1 of warehouse for handlers of earlier events: it is no longer declared"
    assert check(old, handler) == (1, [gone])


def test_the_first_declaration_of_a_handled_type_breaks_nothing(earlier: Earlier) -> None:
    old = earlier(handler_of("order.created"))
    event_type("order.created")(Order)

    assert check(old, handler_of("order.created")) == (0, [])


def test_bytes_and_json_break_each_other(old: Path, earlier: Earlier) -> None:
    handler = handler_of("order.created")
    with own_event_types():
        event_type("order.created")(RawBytes)
        assert check(old, handler) == (
            1,
            [
                "BREAKS order.created v1 for consumers: the content type is application/octet-stream, "
                "expected application/json",
                "BREAKS order.created v1 for handlers of earlier events: the content type is application/json, "
                "expected application/octet-stream",
            ],
        )
        old = earlier(handler)
        assert check(old, handler) == (0, [])
    event_type("order.created")(Order)
    assert check(old, handler)[1][1] == (
        "BREAKS order.created v1 for handlers of earlier events: the content type is application/octet-stream, "
        "expected application/json"
    )


def test_a_mapper_that_is_gone_leaves_events_without_a_schema(earlier: Earlier) -> None:
    event_type("stock.changed", source="warehouse")(Item)
    handler = handler_of("stock.changed", topic="stock")
    mapper = {"stock": "tests.support.app.legacy.to_event"}
    old = earlier(handler, INBOX=mapper)

    assert check(old, handler, INBOX=mapper) == (0, [])
    problem = "for handlers of earlier events: the payload has no schema, expected one"
    assert check(old, handler) == (1, [f"BREAKS stock.changed v1 of warehouse {problem}"])


# What is not a result


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"operations": {"a": {}}}', "5", '{"operations": []}', '{"asyncapi": "3.0.0"}'),
        '{"asyncapi": "2.6.0", "operations": {}}',
        '{"asyncapi": "3.0.0", "operations": {"a": {"action": "send", "channel": {"$ref": "#/channels/a"}}}}',
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "old.json"
    path.write_text(text)

    with pytest.raises(CommandError) as error:
        check(path)
    assert str(error.value) == (
        f"{path} is not a document that outbox_asyncapi printed. Print one with: manage.py outbox_asyncapi > {path}"
    )
    assert error.value.returncode == 2


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"old.json cannot be read: No such file or directory\. Print one") as error:
        check(tmp_path / "old.json")
    assert error.value.returncode == 2


def test_errors_of_the_project_are_not_breaking_changes(old: Path) -> None:
    event_type("order.created")(type("Other", (), {}))
    with pytest.raises(CommandError, match=r"declared as Other") as error:
        check(old)
    assert error.value.returncode == 2

    with outbox_settings(BATCH_SIZE="many"), pytest.raises(CommandError, match=r"BATCH_SIZE") as error:
        call_command("outbox_asyncapi", "--check", str(old), skip_checks=False)
    assert error.value.returncode == 2
