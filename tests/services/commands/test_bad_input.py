"""Whatever a project gets wrong, its commands end with one sentence on what to do, and no row is touched."""

from __future__ import annotations

import json
import os
import re
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from tests.support.outbox import Status, make_message, row
from tests.support.processes import Command
from tests.support.servers.process import free_port

WORKERS = (("outbox_relay", "--drain"), ("outbox_consume", "--drain"))
TOOLS = (("outbox_status",), ("outbox_retry", "--all"), ("outbox_purge",))
WAY_OUT = r'Check that it is running and that DATABASES\["default"\] is correct\.'

Manage = Callable[..., Command]


def assert_one_sentence(command: Command, pattern: str, *, timeout: float = 30) -> None:
    """It failed, and said so in one line that the pattern describes."""
    assert command.wait(timeout) == 1
    assert "Traceback" not in command.output
    lines = [line for line in command.output.splitlines() if line.startswith("CommandError: ")]
    assert len(lines) == 1, command.output
    assert lines == command.output.splitlines()[-1:]
    assert re.fullmatch(f"CommandError: {pattern}", lines[0]), command.output


def assert_system_check(command: Command, *parts: str) -> None:
    """It failed, and the system check said why, and nothing else."""
    assert command.wait() == 1
    assert "Traceback" not in command.output
    assert command.output.startswith("SystemCheckError: ")
    assert command.output.count("(django_outbox.") == command.output.count("HINT: ") == 1
    for part in parts:
        assert part in command.output


def broken(**outbox: Any) -> dict[str, str]:
    """The environment of a project whose settings are these."""
    return {"DJANGO_SETTINGS_MODULE": "tests.support.broken.settings", "BROKEN_OUTBOX": json.dumps(outbox)}


def with_database(name: str, env: dict[str, str]) -> dict[str, str]:
    return {"DATABASE_URL": f"{env['DATABASE_URL'].rpartition('/')[0]}/{name}"}


@pytest.fixture
def empty_database(subprocess_env: dict[str, str], tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a project whose database has no tables."""
    if connection.vendor == "sqlite":
        yield {"DATABASE_URL": f"sqlite:///{tmp_path / 'empty.sqlite3'}"}
        return
    name = f"empty_{uuid.uuid4().hex[:12]}"
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
        yield with_database(name, subprocess_env)
        cursor.execute(f"DROP DATABASE {name}")


@pytest.fixture
def missing_database(subprocess_env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The environment of a project whose database does not exist."""
    if connection.vendor == "sqlite":
        return {"DATABASE_URL": f"sqlite:///{tmp_path / 'nowhere' / 'db.sqlite3'}"}
    return with_database("no_such_database", subprocess_env)


# The database


def test_unmigrated_database(manage: Manage, empty_database: dict[str, str]) -> None:
    workers = [("outbox_relay",), ("outbox_consume",)]  # that would wait for a database that is away
    commands = [manage(*command, env=empty_database) for command in (*WORKERS, *workers, *TOOLS)]
    for command in commands:
        assert_one_sentence(
            command,
            r"The tables of the outbox are missing or out of date\. Run: manage\.py migrate django_outbox",
        )


def test_unmigrated_database_is_critical_for_monitoring(manage: Manage, empty_database: dict[str, str]) -> None:
    command = manage("outbox_status", "--check", env=empty_database)
    assert command.wait() == 2
    assert re.fullmatch(r"OUTBOX CRITICAL - The tables of the outbox are missing .*", command.output)


def test_database_that_does_not_exist(manage: Manage, missing_database: dict[str, str]) -> None:
    env = {**broken(PUBLISH_TIMEOUT=1), **missing_database}
    commands = [manage(*command, env=env) for command in (*WORKERS, *TOOLS)]
    check = manage("outbox_status", "--check", env=missing_database)
    for command in commands:
        assert_one_sentence(
            command, rf"The database 'default' does not answer \(.*(no_such_database|unable to open).*\)\. {WAY_OUT}"
        )
    assert check.wait() == 2
    assert re.fullmatch(rf"OUTBOX CRITICAL - The database 'default' does not answer .+ {WAY_OUT}", check.output)


@pytest.mark.databases("postgresql", "mariadb", "mysql")
def test_database_server_that_is_not_there(manage: Manage, subprocess_env: dict[str, str]) -> None:
    url = re.sub(r":\d+/", f":{free_port()}/", subprocess_env["DATABASE_URL"])
    env = {**broken(PUBLISH_TIMEOUT=1), "DATABASE_URL": url}
    for command in [manage(*command, env=env) for command in WORKERS]:
        assert_one_sentence(
            command, rf"The database 'default' does not answer \(.*(refused|Can't connect).*\)\. {WAY_OUT}"
        )


@pytest.fixture
def powerless_role(subprocess_env: dict[str, str], transactional_db: None) -> Iterator[dict[str, str]]:
    """The environment of a project whose role may log in and no more."""
    name = f"powerless_{uuid.uuid4().hex[:12]}"
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {name} LOGIN")
        yield {"DATABASE_URL": subprocess_env["DATABASE_URL"].replace("//postgres@", f"//{name}@")}
        cursor.execute(f"DROP ROLE {name}")


@pytest.mark.databases("postgresql")
def test_role_that_may_not_read_the_tables(manage: Manage, powerless_role: dict[str, str]) -> None:
    commands = [manage(*command, env=powerless_role) for command in (*WORKERS, *TOOLS)]
    check = manage("outbox_status", "--check", env=powerless_role)
    for command in commands:
        assert_one_sentence(
            command, r"The database 'default' denies this role permission \(permission denied for .+\)\. GRANT .+"
        )
    assert check.wait() == 2
    assert check.output.startswith(
        "OUTBOX CRITICAL - The database 'default' denies this role permission (permission denied for "
    )


@pytest.mark.databases("postgresql")
def test_database_that_takes_no_writes(manage: Manage, subprocess_env: dict[str, str]) -> None:
    message = make_message(Status.DEAD)
    settings = {"DATABASE_URL": subprocess_env["DATABASE_URL"], "PGOPTIONS": "-c default_transaction_read_only=on"}
    assert manage("outbox_status", env=settings).wait() == 0
    assert_one_sentence(
        manage("outbox_retry", "--id", message.id, env=settings),
        r"The database 'default' is read-only \(cannot execute .+ in a read-only transaction\)\. "
        r'Check that DATABASES\["default"\] is the primary server\.',
    )


@pytest.mark.databases("postgresql", "mariadb", "mysql")
def test_database_server_that_hangs_is_critical_for_monitoring(manage: Manage, subprocess_env: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never says a word
        url = re.sub(r":\d+/", f":{silent.getsockname()[1]}/", subprocess_env["DATABASE_URL"])
        check = manage("outbox_status", "--check", "--timeout", 1, env={"DATABASE_URL": url})
        assert check.wait() == 2
    assert check.output == "OUTBOX CRITICAL - no answer within 1 s: the database hangs or is very busy"


# The settings


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("kafak://user:s3cr3t@localhost:9092", "the scheme 'kafak' is not one of kafka://,"),
        ("localhost:9092", "it must look like kafka://host:9092"),
        ("kafka://localhost:9o92", "its port is not a number"),
        ("kafka+sasl://localhost", "needs a user and a password"),
    ],
)
def test_broker_url_with_a_typo(manage: Manage, url: str, reason: str) -> None:
    for command in [manage(*command, env={"KAFKA_URL": url}) for command in WORKERS]:
        assert_system_check(command, "(django_outbox.E004)", 'OUTBOX["BROKER"]["URL"] is not a broker URL: ', reason)
        assert "s3cr3t" not in command.output


def test_broker_backend_with_a_typo(manage: Manage) -> None:
    for command in [
        manage(*command, env={"OUTBOX_BACKEND": "django_outbox.brokers.kafka.broker.KafkaBrokr"}) for command in WORKERS
    ]:
        assert_system_check(command, "(django_outbox.E004)", 'OUTBOX["BROKER"]["BACKEND"] cannot be imported: ')


@pytest.mark.parametrize(
    ("outbox", "parts"),
    [
        ({"TOPICS": "x"}, ["(django_outbox.E001)", "OUTBOX has an unknown key 'TOPICS'.", "Did you mean 'TOPIC'?"]),
        ({"SOURCE": None}, ["(django_outbox.E003)", 'OUTBOX["SOURCE"] is missing.', 'OUTBOX = {"SOURCE": "shop"}']),
        ({"MAX_RETRY": "many"}, ["(django_outbox.E002)", 'OUTBOX["MAX_RETRY"] must be a whole number', "not 'many'."]),
        (
            {"TOPIC": "two words"},
            ["(django_outbox.E002)", "OUTBOX[\"TOPIC\"]: 'two words' is not a valid Kafka topic name"],
        ),
    ],
)
def test_wrong_setting(manage: Manage, outbox: dict[str, Any], parts: list[str]) -> None:
    for command in [manage(*command, env=broken(**outbox)) for command in (*WORKERS, ("outbox_status",))]:
        assert_system_check(command, *parts)


def test_missing_source_where_checks_are_skipped(manage: Manage) -> None:
    make_message()
    env = broken(SOURCE=None, CONSUMER_GROUP=None)
    for command in [manage(*command, "--skip-checks", "--verbosity", 0, env=env) for command in WORKERS]:
        assert_one_sentence(command, r'OUTBOX\["SOURCE"\] is missing: name this service, for example OUTBOX = .*')


# The handlers


def test_handlers_that_cannot_be_imported(manage: Manage) -> None:
    env = {**broken(), "BROKEN_APPS": "tests.support.broken"}
    consumer, relay = (manage(*command, "--verbosity", 0, env=env) for command in reversed(WORKERS))
    assert_one_sentence(
        consumer,
        r"tests\.support\.broken\.handlers cannot be imported \(ModuleNotFoundError: No module named 'no_such_package'\)\. "
        r"No message is consumed until then: fix the import and restart\.",
    )
    assert relay.wait() == 0  # it needs no handlers


# The broker


def test_broker_that_is_not_there(manage: Manage) -> None:
    message = make_message()
    address = f"127.0.0.1:{free_port()}"
    env = {**broken(PUBLISH_TIMEOUT=2), "KAFKA_URL": f"kafka://{address}"}
    waiting = [manage(command, env=env) for command, _ in WORKERS]
    draining = [manage(*command, env=env) for command in WORKERS]
    for command in draining:
        assert_one_sentence(command, rf'.*{address}.* is it running, and is OUTBOX\["BROKER"\]\["URL"\] right\?')
    for command in waiting:
        command.wait_for_line(rf" ERROR The broker: .*{address}.* Trying again until it works\.")
        assert command.stop() == 0
        assert "Traceback" not in command.output
        assert command.output.count(" ERROR ") == 1
    after = row(message)
    assert (after.status, after.retry_count, after.publish_count) == ("pending", 0, 0)
    assert (after.next_retry_at, after.updated_at) == (message.next_retry_at, message.updated_at)


# The command line


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("outbox_consume", "--group"),
        ("outbox_consume", "--topics"),
        ("outbox_devbroker", "--host"),
        ("outbox_retry", "--event-type"),
        ("outbox_retry", "--topic"),
        ("outbox_retry", "--key"),
        ("outbox_retry", "--error-contains"),
    ],
)
def test_bytes_that_are_no_text(command: str, option: str) -> None:
    with pytest.raises(
        CommandError, match=rf"argument {option}: invalid value '\\udcff': it contains a lone surrogate"
    ):
        call_command(command, option, os.fsdecode(b"\xff"))
