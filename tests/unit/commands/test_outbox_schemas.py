"""outbox_schemas: says before a deployment what the registry would say after it, and which field breaks whom."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from django_outbox.serializers.base import Decoded, Serializer
from tests.support.messages import OrderCreated
from tests.support.overrides import outbox_settings
from tests.support.registry import StubRegistry, stub_registry
from tests.support.serializing import ORDER, avro_settings


@pytest.fixture
def registry() -> Iterator[StubRegistry]:
    with stub_registry() as stub:
        yield stub


@pytest.fixture
def path(tmp_path: Path, registry: StubRegistry) -> Iterator[Path]:
    """The project's schema of ``order.created``; that of others is in a file beside it."""
    path = tmp_path / "order.created.avsc"
    path.write_text(json.dumps(ORDER))
    with outbox_settings(SERIALIZERS=avro_settings(registry.url, schema=tmp_path / "{event_type}.avsc")):
        yield path


def run(*arguments: str) -> tuple[int, list[str]]:
    """The exit code and the lines of a run, which reads its files anew as a process does."""
    out = io.StringIO()
    try:
        with outbox_settings(SERIALIZERS=dict(settings.OUTBOX.get("SERIALIZERS", {}))):
            call_command("outbox_schemas", *arguments, stdout=out, no_color=True)
    except SystemExit as exit:
        return int(str(exit.code)), out.getvalue().splitlines()
    return 0, out.getvalue().splitlines()


def test_event_types_are_those_of_the_files_that_match(path: Path, registry: StubRegistry) -> None:
    path.with_name("order.paid.avsc").write_text(json.dumps(ORDER))
    path.with_name("customer.created.avsc").write_text(json.dumps(ORDER))

    assert run("check") == (
        0,
        ["OK     order.created  outbox-shop.Order", "OK     order.paid  outbox-shop.Order", "2 schemas: no problems."],
    )


def test_check_changes_nothing(path: Path, registry: StubRegistry) -> None:
    run("check")

    assert registry.subjects == {}


def test_check_says_what_the_registry_does_not_accept(path: Path, registry: StubRegistry) -> None:
    registry.register("outbox-shop.Order", ORDER)
    registry.incompatibilities = [
        "The field 'total' at '/fields/1' has no default value",
        "{compatibility: 'BACKWARD'}",
    ]

    assert run("check") == (
        1,
        [
            "ERROR  order.created  The registry does not accept it: The field 'total' at '/fields/1' has no default value",
            "ERROR  order.created  The registry does not accept it: {compatibility: 'BACKWARD'}",
            "1 schema: 1 problem.",
        ],
    )
    assert registry.queries["POST /compatibility/subjects/outbox-shop.Order/versions"] == "verbose=true"


def test_check_says_so_if_the_registry_names_no_reason(path: Path, registry: StubRegistry) -> None:
    registry.answer = lambda method, path: (200, {"is_compatible": False}) if "compatibility" in path else None

    code, lines = run("check")

    assert code == 1
    assert lines[0] == "ERROR  order.created  The registry does not accept it: incompatible with earlier versions"


def test_check_finds_a_file_that_is_not_a_schema(path: Path) -> None:
    path.write_text("{")

    code, lines = run("check")

    assert code == 1
    assert lines[0].startswith(f"ERROR  order.created  {path} is not a valid AVRO schema: ")


def test_without_a_file_check_asks_for_the_subject(registry: StubRegistry) -> None:
    with outbox_settings(SERIALIZERS=avro_settings(registry.url)):
        code, lines = run("check")
        assert code == 1
        assert (
            lines[0] == "ERROR  order.*  The registry has no subject 'outbox-value', and the project no schema for it."
        )


def test_register_adds_a_version(path: Path, registry: StubRegistry) -> None:
    assert run("register") == (0, ["OK     order.created  outbox-shop.Order version 1, id 1", "1 schema: no problems."])

    path.write_text(json.dumps({**ORDER, "doc": "later"}))
    assert run("register")[1][0] == "OK     order.created  outbox-shop.Order version 2, id 2"
    assert registry.subjects == {"outbox-shop.Order": [1, 2]}


def test_register_says_what_the_registry_refuses(path: Path, registry: StubRegistry) -> None:
    registry.incompatibilities = ["order_id has another type"]

    code, lines = run("register")

    assert code == 1
    assert "refuses the schema for subject 'outbox-shop.Order': order_id has another type" in lines[0]


def test_diff_shows_what_differs(path: Path, registry: StubRegistry) -> None:
    registry.register("outbox-shop.Order", ORDER)
    assert run("diff") == (0, ["OK     order.created  outbox-shop.Order", "1 schema: no differences."])

    path.write_text(json.dumps({**ORDER, "doc": "later"}))
    code, lines = run("diff")

    assert code == 1
    assert lines[0] == "DIFF   order.created  outbox-shop.Order"
    assert '    +  "doc": "later"' in lines
    assert lines[-1] == "1 schema: 1 differ."


@pytest.mark.parametrize("name", ["typo/{event_type}.avsc", "{event_type}/{event_type}.json"])
def test_check_does_not_pass_if_no_file_matches(registry: StubRegistry, tmp_path: Path, name: str) -> None:
    with outbox_settings(SERIALIZERS=avro_settings(registry.url, schema=tmp_path / name)):
        code, lines = run("check")

    assert code == 1
    assert lines[0] == f"ERROR  order.*  No file {tmp_path / name} exists for an event type of this pattern."


def test_the_event_type_may_be_twice_in_a_path_and_the_path_is_not_a_pattern(
    registry: StubRegistry, tmp_path: Path
) -> None:
    folder = tmp_path / "a[b]*" / "order.created"
    folder.mkdir(parents=True)
    (folder / "order.created.avsc").write_text(json.dumps(ORDER))
    (folder / "order.paid.avsc").write_text(json.dumps(ORDER))
    with outbox_settings(
        SERIALIZERS=avro_settings(registry.url, schema=tmp_path / "a[b]*/{event_type}/{event_type}.avsc")
    ):
        assert run("check") == (0, ["OK     order.created  outbox-shop.Order", "1 schema: no problems."])


@pytest.mark.parametrize(
    ("routes", "subject"),
    [
        ({}, "{event_type}-value"),
        ({"order.created": "orders"}, "{topic}-value"),
        ({"order.c*": "orders"}, "{topic}-value"),
        ({"*.created": "orders"}, "{topic}-value"),
    ],
)
def test_a_pattern_with_several_subjects_needs_event_types(
    registry: StubRegistry, tmp_path: Path, routes: dict[str, str], subject: str
) -> None:
    path = tmp_path / "order.avsc"
    path.write_text(json.dumps(ORDER))
    with outbox_settings(
        SERIALIZERS=avro_settings(registry.url, schema=path, subject=subject), ROUTES=routes, TOPIC="outbox"
    ):
        code, lines = run("register")
        assert (code, registry.subjects) == (1, {})
        assert lines[0] == "ERROR  order.*  Its events have several subjects; name their types with --event-type."

        assert run("register", "--event-type", "order.created")[0] == 0
        assert [*registry.subjects] == ["orders-value" if routes else "order.created-value"]


@pytest.mark.parametrize(
    ("routes", "topic"),
    [
        ({"invoice.*": "invoices"}, "outbox"),
        ({"order": "others"}, "outbox"),
        ({"order.*": "orders"}, "orders"),
        ({"*": "all", "order.created": "orders"}, "all"),
    ],
)
def test_a_pattern_with_one_topic_is_one_schema(
    registry: StubRegistry, tmp_path: Path, routes: dict[str, str], topic: str
) -> None:
    path = tmp_path / "order.avsc"
    path.write_text(json.dumps(ORDER))
    with outbox_settings(SERIALIZERS=avro_settings(registry.url, schema=path), ROUTES=routes, TOPIC="outbox"):
        assert run("register")[0] == 0

    assert [*registry.subjects] == [f"{topic}-value"]


class Odd(Serializer):
    """A serializer of a project, which needs no registry."""

    content_type = "application/odd"

    def validate(self, payload: Any, event_type: str, topic: str) -> None:
        pass

    def serialize(self, payload_json: str, event_type: str, topic: str) -> bytes:
        return payload_json.encode()

    def deserialize(self, data: bytes, event_type: str, topic: str) -> Decoded:
        return Decoded(json.loads(data), {})


def test_a_serializer_without_a_registry_is_not_called_json() -> None:
    with outbox_settings(SERIALIZERS={"order.*": {"CLASS": f"{__name__}.Odd"}}):
        assert run("check") == (0, ['OUTBOX["SERIALIZERS"] names no event type with a schema.'])
        with pytest.raises(
            CommandError, match=r"The serializer of 'order.created', Odd, does not use a schema registry"
        ):
            run("check", "--event-type", "order.created")


@pytest.fixture
def protobuf(registry: StubRegistry) -> Iterator[FileDescriptorProto]:
    """The file of a message, which ``order.*`` is sent as."""
    options = {"registry": {"url": registry.url}, "message": "tests.support.messages.OrderCreated"}
    serializer = {"CLASS": "django_outbox.serializers.protobuf.ProtobufSerializer", "OPTIONS": options}
    file = FileDescriptorProto()
    OrderCreated.DESCRIPTOR.file.CopyToProto(file)  # type: ignore[attr-defined]
    with outbox_settings(SERIALIZERS={"order.*": serializer}):
        yield file


def test_diff_of_protobuf_ignores_what_compilers_add(protobuf: FileDescriptorProto, registry: StubRegistry) -> None:
    protobuf.name = "default"
    for field in protobuf.message_type[0].field:
        field.json_name = field.name
    registry.register("outbox-value", base64.b64encode(protobuf.SerializeToString()).decode(), kind="PROTOBUF")

    assert run("diff") == (0, ["OK     order.*  outbox-value", "1 schema: no differences."])


def test_diff_of_protobuf_shows_the_field(protobuf: FileDescriptorProto, registry: StubRegistry) -> None:
    del protobuf.message_type[0].field[1]
    registry.register("outbox-value", base64.b64encode(protobuf.SerializeToString()).decode(), kind="PROTOBUF")

    code, lines = run("diff")

    assert code == 1
    assert '    +    name: "count"' in lines


def test_diff_of_protobuf_needs_descriptors(protobuf: FileDescriptorProto, registry: StubRegistry) -> None:
    registry.register("outbox-value", 'syntax = "proto3"; message OrderCreated {}', kind="PROTOBUF")

    code, lines = run("diff")

    assert code == 1
    assert lines[0].startswith("ERROR  order.*  The registry has this schema only as .proto text")


def test_an_event_type_may_be_named(path: Path, registry: StubRegistry) -> None:
    path.rename(path.with_name("order.paid.avsc"))

    assert run("check", "--event-type", "order.paid")[1][0] == "OK     order.paid  outbox-shop.Order"
    with pytest.raises(CommandError, match=r"'customer\.created': it is sent as JSON"):
        run("check", "--event-type", "customer.created")


def test_a_registry_that_is_away_has_its_own_exit_code(path: Path, registry: StubRegistry) -> None:
    registry.answer = lambda method, path: (503, {"message": "away"})

    with pytest.raises(CommandError, match=rf"^The schema registry {registry.url} answers 503 .*: away") as caught:
        run("check")
    assert caught.value.returncode == 2


@pytest.mark.parametrize("serializers", [{}, None])
def test_without_serializers_there_is_nothing_to_do(serializers: Any) -> None:
    changes = {} if serializers is None else {"SERIALIZERS": serializers}
    with outbox_settings(**changes):
        assert run("check") == (0, ['OUTBOX["SERIALIZERS"] names no event type with a schema.'])
