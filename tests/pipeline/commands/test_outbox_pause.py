"""outbox_pause and outbox_resume: what is paused, by whom and why, and that nothing is paused by a typo."""

from __future__ import annotations

import json
import logging
import re
import socket
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from django.core.management import CommandError, call_command

from django_outbox.handlers.registry import Registry, registry
from django_outbox.models import OutboxMessage, Pause
from django_outbox.operations.counts import unfinished
from django_outbox.operations.pausing import resume_command
from django_outbox.state import pauses as state
from tests.support.inbox import make_received
from tests.support.outbox import make_message

pytestmark = pytest.mark.django_db

WHY = ("--reason", "the mail server is down")


def ship(event: Any) -> None: ...


def enter(event: Any) -> None: ...


SHIP = f"{__name__}.ship"


@pytest.fixture(autouse=True)
def handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.load()
    own = Registry()
    own.register("order.created", ship)
    own.register("invoice.paid", enter, group="books")
    monkeypatch.setattr(registry, "_handlers", own._handlers)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command; returns its output."""

    def run(*arguments: object) -> str:
        with patch("getpass.getuser", return_value="ada"):
            call_command(*map(str, arguments))
        return str(capsys.readouterr().out)

    return run


def waiting(**fields: Any) -> OutboxMessage:
    """A message that a consumer has put back for the first pause."""
    active = state.active(Pause.objects.using("default"))[0]
    return make_message(next_retry_at=active.due_at(active.now), **fields)


@pytest.mark.parametrize(
    ("option", "subject"), [("--event-type", "order.*"), ("--event-type", "order.created"), ("--handler", SHIP)]
)
def test_pause_says_who_and_why_and_how_to_end_it(run: Any, option: str, subject: str) -> None:
    out = run("outbox_pause", option, subject, *WHY)
    pause = Pause.objects.get()
    assert (pause.group, str(pause)) == ("tests", subject)
    assert (pause.created_by, pause.reason) == (f"ada@{socket.gethostname()}", "the mail server is down")
    end = out.strip().partition("manage.py outbox_resume ")[2].replace("'", "").split()
    waiting()
    assert run("outbox_resume", *end) == "1 pause ended; 1 message due now.\n"
    assert not Pause.objects.exists()
    assert OutboxMessage.objects.due().exists()


def test_other_groups_are_paused_by_name(run: Any) -> None:
    out = run("outbox_pause", "--event-type", "invoice.paid", "--group", "books", *WHY)
    assert out.endswith("outbox_resume --event-type invoice.paid --group books\n")
    assert Pause.objects.get().group == "books"
    with pytest.raises(CommandError, match=r"^invoice.paid is not paused in the group tests. Paused there: nothing\.$"):
        run("outbox_resume", "--event-type", "invoice.paid")
    run("outbox_resume", "--event-type", "invoice.paid", "--group", "books")
    assert not Pause.objects.exists()


@pytest.mark.parametrize(
    ("subject", "options"),
    [
        ({"handler": "shop.mail.<locals>.send"}, "--handler 'shop.mail.<locals>.send'"),
        ({"event_type": "order.*", "group": "the books"}, "--event-type 'order.*' --group 'the books'"),
        ({"handler": SHIP, "using": "archive"}, f"--handler {SHIP} --database archive"),
    ],
)
def test_command_that_ends_a_pause_is_for_a_shell(subject: dict[str, str], options: str) -> None:
    assert resume_command(**{"group": "tests", "using": "default", **subject}) == f"manage.py outbox_resume {options}"


def test_all_pauses_of_the_group_are_ended(run: Any) -> None:
    for arguments in (["order.*"], ["order.created"], ["invoice.paid", "--group", "books"]):
        run("outbox_pause", "--event-type", *arguments, *WHY)
    assert run("outbox_resume", "--all") == "2 pauses ended; 0 messages due now.\n"
    assert Pause.objects.get().group == "books"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--event-type", "ordr.created"], r"handles no event type 'ordr.created'. Did you mean 'order.created'"),
        (["--event-type", "x"], r"handles no event type 'x'. manage.py outbox_consume --list"),
        (["--event-type", "invoice.paid"], r"The group 'tests' handles no event type"),
        (["--handler", SHIP[:-1]], r"has no handler .* Did you mean '.*ship'"),
        (
            ["--event-type", "order.*", "--group", "boks"],
            r"'boks' is not a consumer group of this project: tests, books",
        ),
        (["--event-type", ""], r"--event-type: must have 1 to 255 characters"),
        (["--event-type", "x" * 256], r"--event-type: must have 1 to 255 characters"),
        (["--event-type", "order.*", "--handler", SHIP], r"not allowed with"),
        ([], r"one of the arguments --event-type --handler is required"),
    ],
)
def test_what_would_pause_nothing_is_refused(run: Any, arguments: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        run("outbox_pause", *arguments, *WHY)
    assert not Pause.objects.exists()


@pytest.mark.parametrize("reason", ["", " ", "x" * 501])
def test_pause_needs_a_reason(run: Any, reason: str) -> None:
    with pytest.raises(CommandError, match="--reason must have 1 to 500 characters"):
        run("outbox_pause", "--event-type", "order.*", "--reason", reason)


def test_the_log_says_who_paused_and_resumed_what(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "django_outbox.operations")
    run("outbox_pause", "--event-type", "order.*", *WHY)
    run("outbox_resume", "--event-type", "order.*")
    assert [record.getMessage() for record in caplog.records] == [
        "ada: pauses order.* (group tests): the mail server is down",
        "ada: resumes order.* (group tests)",
    ]


# What operators see


def test_status_shows_pauses_and_how_many_messages_wait(run: Any) -> None:
    run("outbox_pause", "--event-type", "order.*", *WHY)
    waiting()
    active = state.active(Pause.objects.using("default"))[0]
    make_received(group="tests", next_retry_at=active.due_at(active.now))
    make_received(group="books", next_retry_at=active.due_at(active.now))
    make_message(next_retry_at=active.now + timedelta(hours=1))
    (pause,) = json.loads(run("outbox_status", "--json", "--no-broker"))["pauses"]
    assert 0 <= pause.pop("paused_seconds") < 300
    assert pause == {
        "group": "tests",
        "event_type": "order.*",
        "handler": None,
        "reason": "the mail server is down",
        "by": f"ada@{socket.gethostname()}",
        "tried_in_seconds": None,
        "waiting": {"outbox": 1, "inbox": 1},
    }
    text = run("outbox_status", "--no-broker")
    assert "PAUSED " in text
    assert " the mail server is down" in text


def test_status_without_pauses_says_nothing_of_them(run: Any) -> None:
    assert json.loads(run("outbox_status", "--json", "--no-broker"))["pauses"] == []
    assert "PAUSED" not in run("outbox_status", "--no-broker")


def test_status_says_when_the_circuit_breaker_tries_a_message(run: Any) -> None:
    state.trip("tests", SHIP, timedelta(minutes=10), "failed 5 times in a row: X", using="default")
    (pause,) = json.loads(run("outbox_status", "--json", "--no-broker"))["pauses"]
    assert 500 < pause["tried_in_seconds"] <= 600
    text = run("outbox_status", "--no-broker")
    assert re.search(r" (10 min|9 min \d+ s)  circuit breaker  failed 5 times in a row: X$", text, re.MULTILINE)
    assert run("outbox_resume", "--handler", SHIP) == "1 pause ended; 0 messages due now.\n"


def test_metrics_count_the_messages_that_wait(run: Any) -> None:
    run("outbox_pause", "--event-type", "order.*", *WHY)
    waiting()
    make_message()
    assert {box: found.paused for box, found in unfinished("default").items()} == {"outbox": 1, "inbox": 0}
