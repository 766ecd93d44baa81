"""What all commands share: errors are sentences, and the log goes where and as far as it was asked to."""

from __future__ import annotations

import argparse
import io
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import IntegrityError, InterfaceError, OperationalError

from django_outbox.exceptions import BrokerUnavailable, InvalidMessage, OutboxError
from django_outbox.management.base import OutboxCommand, logging_to
from django_outbox.management.option_types import number
from django_outbox.management.worker import WorkerCommand
from django_outbox.worker.state import WorkerState
from tests.support.outbox import memory_broker

OUTBOX = logging.getLogger("django_outbox")
CLIENTS = [logging.getLogger(name) for name in ("kafka", "confluent_kafka")]
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def unconfigured() -> Iterator[None]:
    """As in a project that says nothing about logging.

    Around the test alone, since pytest adds handlers of its own just before.
    """
    loggers = (logging.getLogger(), OUTBOX, *CLIENTS)
    before = [(logger, logger.handlers, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers = []
        logger.propagate = True
        logger.setLevel(logging.WARNING if logger.parent is None else logging.NOTSET)
    try:
        yield
    finally:
        for logger, handlers, level, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)


def shown(verbosity: int, logger: logging.Logger) -> list[str]:
    """Log at each level; which of them were shown."""
    stream = io.StringIO()
    with logging_to(stream, verbosity):
        for level in LEVELS:
            logger.getChild("part").log(getattr(logging, level), "said")
    return [line.split()[2] for line in stream.getvalue().splitlines()]


# Logging


@pytest.mark.parametrize(
    ("verbosity", "levels"),
    [
        (0, ["ERROR"]),
        (1, ["INFO", "WARNING", "ERROR"]),
        (2, ["DEBUG", "INFO", "WARNING", "ERROR"]),
        (3, ["DEBUG", "INFO", "WARNING", "ERROR"]),
    ],
)
@unconfigured()
def test_verbosity_sets_the_level(verbosity: int, levels: list[str]) -> None:
    assert shown(verbosity, OUTBOX) == levels


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
@pytest.mark.parametrize(("verbosity", "levels"), [(0, []), (1, []), (2, []), (3, ["WARNING", "ERROR"])])
@unconfigured()
def test_client_library_is_heard_at_the_highest_verbosity_only(
    client: logging.Logger, verbosity: int, levels: list[str]
) -> None:
    assert shown(verbosity, client) == levels


@unconfigured()
def test_lines_have_time_and_level() -> None:
    stream = io.StringIO()
    with logging_to(stream, 1):
        OUTBOX.info("Relay %s.", "started")
    assert stream.getvalue().endswith(" INFO Relay started.\n")


@unconfigured()
def test_lines_of_a_lane_name_it() -> None:
    stream = io.StringIO()
    with logging_to(stream, 1):
        thread = threading.Thread(target=OUTBOX.info, args=("Message 7 failed.",), name="outbox-lane-12")
        thread.start()
        thread.join()
    assert stream.getvalue().endswith(" INFO lane 12: Message 7 failed.\n")


@pytest.mark.parametrize("verbosity", [0, 1, 2, 3])
@unconfigured()
def test_log_goes_where_the_project_says_and_nowhere_else(verbosity: int) -> None:
    own, stream = io.StringIO(), io.StringIO()
    OUTBOX.addHandler(logging.StreamHandler(own))
    with logging_to(stream, verbosity):
        OUTBOX.error("said")
    assert own.getvalue() == "said\n"
    assert stream.getvalue() == ""


@unconfigured()
def test_project_s_root_handler_is_enough() -> None:
    own, stream = io.StringIO(), io.StringIO()
    logging.getLogger().addHandler(logging.StreamHandler(own))
    with logging_to(stream, 1):
        OUTBOX.info("said")
    assert own.getvalue() == "said\n"
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("verbosity", "level"),
    [(0, logging.ERROR), (1, logging.WARNING), (2, logging.DEBUG), (3, logging.DEBUG)],
)
@unconfigured()
def test_project_s_level_stays_unless_another_verbosity_is_asked_for(verbosity: int, level: int) -> None:
    OUTBOX.setLevel(logging.WARNING)
    with logging_to(io.StringIO(), verbosity):
        assert OUTBOX.level == level
    assert OUTBOX.level == logging.WARNING


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
@pytest.mark.parametrize("verbosity", [0, 1, 2, 3])
@unconfigured()
def test_project_s_level_of_the_client_library_stays(client: logging.Logger, verbosity: int) -> None:
    client.setLevel(logging.INFO)
    with logging_to(io.StringIO(), verbosity):
        assert client.level == logging.INFO


@pytest.mark.parametrize("verbosity", [0, 1, 2, 3])
@unconfigured()
def test_everything_is_as_before_afterwards(verbosity: int) -> None:
    with pytest.raises(ZeroDivisionError), logging_to(io.StringIO(), verbosity):
        raise ZeroDivisionError
    for logger in (OUTBOX, *CLIENTS):
        assert (logger.level, logger.handlers) == (logging.NOTSET, [])


class Worker(WorkerCommand):
    requires_system_checks = ()
    logger = OUTBOX

    def handle(self, **options: Any) -> None:
        with self.working(memory_broker(), WorkerState("relay"), {**options, "drain": True}, using="default"):
            OUTBOX.info("all is well")
        self.stderr.write("but this is an error")


@pytest.mark.django_db
@unconfigured()
def test_log_is_not_in_the_colour_of_errors() -> None:
    terminal = Terminal()
    call_command(Worker(stderr=terminal, force_color=True), force_color=True)
    log, error = terminal.getvalue().split("\n", 1)
    assert log.endswith(" INFO all is well")
    assert "\x1b" not in log
    assert "\x1b" in error


# Errors


def run_command(error: Exception | None = None, **options: Any) -> None:
    class Failing(OutboxCommand):
        requires_system_checks = ()

        def handle(self, **options: Any) -> None:
            if error is not None:
                raise error

    call_command(Failing(), **options)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ImproperlyConfigured('OUTBOX["SOURCE"] is missing.'), 'OUTBOX["SOURCE"] is missing.'),
        (BrokerUnavailable("no\nbroker\n  there"), "no broker there"),
        (OutboxError(), "OutboxError"),
        (InvalidMessage("topic", "it is empty"), "topic: it is empty"),
        (
            OperationalError("refused\n\tby the server"),
            "The database 'default' does not answer (refused by the server). Check that it is running "
            'and that DATABASES["default"] is correct.',
        ),
        (
            InterfaceError(),
            "The database 'default' does not answer (InterfaceError). Check that it is running and that "
            'DATABASES["default"] is correct.',
        ),
    ],
)
def test_expected_error_is_one_sentence(error: Exception, sentence: str) -> None:
    with pytest.raises(CommandError) as raised:
        run_command(error)
    assert str(raised.value) == sentence
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("error", [ZeroDivisionError(), IntegrityError("a bug")])
def test_unexpected_error_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        run_command(error)


@pytest.mark.parametrize("command", ["outbox_relay", "outbox_consume", "outbox_status", "outbox_retry", "outbox_purge"])
def test_unknown_database_is_refused(command: str) -> None:
    with pytest.raises(CommandError, match=r"argument --database: invalid choice: 'nowhere' \(choose from '?default"):
        call_command(command, "--database", "nowhere")


class Elsewhere:
    """A router that names a database that is not there."""

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "nowhere"


@pytest.mark.parametrize("command", ["outbox_relay", "outbox_doctor"])
def test_a_router_to_an_unknown_database_is_refused(command: str, settings: Any) -> None:
    settings.DATABASE_ROUTERS = [Elsewhere()]
    with pytest.raises(CommandError, match="DATABASE_ROUTERS route the outbox to 'nowhere', which is not in DATABASES"):
        call_command(command)


# Arguments


@pytest.mark.parametrize(
    ("kind", "text", "value"), [(int, "1", 1), (int, "100", 100), (float, "1", 1.0), (float, "99.5", 99.5)]
)
def test_number_within_its_limits_is_taken(kind: Any, text: str, value: float) -> None:
    assert number(1, kind, most=100)(text) == value


@pytest.mark.parametrize("text", ["0", "-1", "", "x", "1.5", "nan", "inf", "0.999", "1e3", "101", "9" * 400])
def test_number_outside_of_its_limits_is_refused(text: str) -> None:
    kinds = [int, float] if text != "1.5" else [int]
    for kind in kinds:
        with pytest.raises(
            argparse.ArgumentTypeError, match=r"is not a number from 1$|is too large; the maximum is 100$"
        ):
            number(1, kind, most=100)(text)


@pytest.mark.parametrize(
    "arguments",
    [
        ("outbox_relay", "--batch-size", "0"),
        ("outbox_relay", "--batch-size", "32768"),
        ("outbox_relay", "--interval", "0"),
        ("outbox_relay", "--interval", "inf"),
        ("outbox_relay", "--interval", "nan"),
        ("outbox_relay", "--partitions", "0"),
        ("outbox_relay", "--replication", "-1"),
        ("outbox_consume", "--batch-size", "0"),
        ("outbox_consume", "--batch-size", "1e9"),
    ],
)
def test_commands_refuse_impossible_numbers(arguments: tuple[str, str, str]) -> None:
    with pytest.raises(CommandError, match=f"argument {arguments[1]}: '{arguments[2]}' is "):
        call_command(*arguments)


@pytest.mark.parametrize("option", ["--partitions", "--replication"])
def test_relay_refuses_what_is_for_topics_that_it_does_not_create(option: str) -> None:
    with pytest.raises(CommandError, match="require --create-topics"):
        call_command("outbox_relay", option, "3")
