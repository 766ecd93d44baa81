"""outbox_schemas: says before a deployment what the registry would say after it, and which field breaks whom."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command

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
        ["OK     order.created  outbox-value", "OK     order.paid  outbox-value", "2 schemas: no problems."],
    )


def test_check_changes_nothing(path: Path, registry: StubRegistry) -> None:
    run("check")

    assert registry.subjects == {}


def test_check_names_the_field_that_breaks_a_reader(path: Path, registry: StubRegistry) -> None:
    registry.register("outbox-value", ORDER)
    registry.compatible = False
    fields = [{"name": "order_id", "type": "string"}, {"name": "total", "type": "long"}]
    path.write_text(json.dumps({**ORDER, "fields": fields}))

    assert run("check") == (
        1,
        [
            "ERROR  order.created  Readers with the new schema cannot read records of version 1: "
            "order_id: it is written as long and read as string.",
            "ERROR  order.created  Readers with the new schema cannot read records of version 1: "
            "total: it is not written, and the reader has no default for it.",
            "ERROR  order.created  Readers with version 1 cannot read new records: "
            "order_id: it is written as string and read as long.",
            "1 schema: 1 problem.",
        ],
    )


def test_check_says_so_if_only_the_registry_knows_why(path: Path, registry: StubRegistry) -> None:
    registry.register("outbox-value", ORDER)
    registry.compatible = False

    code, lines = run("check")

    assert code == 1
    assert (
        lines[0]
        == "ERROR  order.created  The registry refuses it as incompatible with earlier versions of 'outbox-value'."
    )


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
    assert run("register") == (0, ["OK     order.created  outbox-value version 1, id 1", "1 schema: no problems."])

    path.write_text(json.dumps({**ORDER, "doc": "later"}))
    assert run("register")[1][0] == "OK     order.created  outbox-value version 2, id 2"
    assert registry.subjects == {"outbox-value": [1, 2]}


def test_register_says_what_the_registry_refuses(path: Path, registry: StubRegistry) -> None:
    registry.compatible = False

    code, lines = run("register")

    assert code == 1
    assert "refuses the schema for subject 'outbox-value': order_id has another type" in lines[0]


def test_diff_shows_what_differs(path: Path, registry: StubRegistry) -> None:
    registry.register("outbox-value", ORDER)
    assert run("diff") == (0, ["OK     order.created  outbox-value", "1 schema: no differences."])

    path.write_text(json.dumps({**ORDER, "doc": "later"}))
    code, lines = run("diff")

    assert code == 1
    assert lines[0] == "DIFF   order.created  outbox-value"
    assert '    +  "doc": "later"' in lines
    assert lines[-1] == "1 schema: 1 differ."


def test_an_event_type_may_be_named(path: Path, registry: StubRegistry) -> None:
    path.rename(path.with_name("order.paid.avsc"))

    assert run("check", "--event-type", "order.paid")[1][0] == "OK     order.paid  outbox-value"
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
