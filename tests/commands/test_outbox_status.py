"""outbox_status: how many messages are where, for people, for programs and for monitoring."""

from __future__ import annotations

import io
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_outbox.fields import DatabaseNow
from django_outbox.management.commands import outbox_status
from django_outbox.models import OutboxMessage
from tests.outbox import Status, make_message
from tests.overrides import outbox_settings

pytestmark = pytest.mark.django_db

KEYS = [
    "pending",
    "published",
    "consumed",
    "dead",
    "oldest_pending_seconds",
    "oldest_published_seconds",
    "oldest_dead_seconds",
]


def status(*arguments: str) -> str:
    out = io.StringIO()
    call_command("outbox_status", *arguments, stdout=out)
    return out.getvalue()


def status_json() -> dict[str, Any]:
    return json.loads(status("--json"))["outbox"]


def check(*arguments: str) -> tuple[int, str]:
    """The exit code, and what was printed."""
    out = io.StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("outbox_status", "--check", *arguments, stdout=out)
    return int(ended.value.code or 0), out.getvalue()


def make_messages(**counts: int) -> None:
    for name, count in counts.items():
        for _ in range(count):
            make_message(name)


def make_old(state: str, seconds: float) -> None:
    message = make_message(state)
    OutboxMessage.objects.filter(id=message.id).update(created_at=DatabaseNow() - timedelta(seconds=seconds))


# For people


def test_plain_status_is_a_table() -> None:
    make_messages(pending=1, published=2, dead=3)
    lines = [line.split() for line in status().splitlines()]
    assert [" ".join(words[:-1]) for words in lines] == [key.replace("_", " ") for key in KEYS]
    assert [words[-1] for words in lines[:4]] == ["1", "2", "0", "3"]
    assert re.fullmatch(r"\d+\.\d", lines[4][-1])


def test_plain_status_of_an_empty_outbox() -> None:
    assert [line.split()[-1] for line in status().splitlines()] == ["0"] * 4 + ["-"] * 3


# For programs


def test_json_has_exactly_these_keys() -> None:
    document = json.loads(status("--json"))
    assert list(document) == ["outbox", "inbox"]
    assert list(document["outbox"]) == KEYS
    assert list(document["inbox"]) == ["pending", "consumed", "dead", "oldest_pending_seconds"]


def test_json_of_an_empty_outbox() -> None:
    assert status_json() == {**dict.fromkeys(KEYS[:4], 0), **dict.fromkeys(KEYS[4:])}


def test_json_counts_by_state() -> None:
    make_messages(pending=1, published=2, consumed=3, dead=4)
    found = status_json()
    assert [found[name] for name in KEYS[:4]] == [1, 2, 3, 4]


def test_ages_are_those_of_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    # By the database's clock, not by this machine's.
    monkeypatch.setattr(timezone, "now", lambda: datetime(2001, 1, 1, tzinfo=UTC))
    for state, seconds in ((Status.PENDING, 100), (Status.PUBLISHED, 200), (Status.DEAD, 300)):
        make_old(state, seconds)
        make_old(state, 1)
        make_message(state)
    make_old(Status.CONSUMED, 1000)
    found = status_json()
    assert found["oldest_pending_seconds"] == pytest.approx(100, abs=30)
    assert found["oldest_published_seconds"] == pytest.approx(200, abs=30)
    assert found["oldest_dead_seconds"] == pytest.approx(300, abs=30)


def test_status_is_one_query() -> None:
    make_messages(pending=1, dead=1)
    with CaptureQueriesContext(connection) as queries:
        outbox_status.outbox_status("default")
    assert len(queries) == 1


# For monitoring


def test_check_is_ok_within_the_limits() -> None:
    make_messages(pending=1, published=1, consumed=5, dead=2)
    expected = (0, "OUTBOX OK - 1 pending, 1 published, 5 consumed, 2 dead\n")
    assert check() == expected
    assert check("--max-age", "60", "--max-dead", "2") == expected


def test_check_of_an_empty_outbox_is_ok() -> None:
    assert check("--max-age", "0", "--max-dead", "0")[0] == 0


def test_check_warns_of_too_many_dead() -> None:
    make_messages(dead=3, pending=1)
    assert check("--max-dead", "2", "--max-age", "60") == (1, "OUTBOX WARNING - 3 dead\n")


@pytest.mark.parametrize("state", [Status.PENDING, Status.PUBLISHED])
def test_check_is_critical_if_messages_stay_too_long(state: str) -> None:
    make_old(state, 100)
    code, line = check("--max-age", "60")
    assert code == 2
    assert re.fullmatch(rf"OUTBOX CRITICAL - oldest {state} message is 1\d\d s old\n", line)


@pytest.mark.parametrize("state", [Status.CONSUMED, Status.DEAD])
def test_check_minds_the_age_of_unfinished_messages_only(state: str) -> None:
    make_old(state, 1000)
    assert check("--max-age", "60")[0] == 0


def test_check_tells_all_that_is_wrong_in_one_line_and_the_worst_counts() -> None:
    make_old(Status.PENDING, 100)
    make_old(Status.PUBLISHED, 200)
    make_messages(dead=1)
    code, line = check("--max-age", "60", "--max-dead", "0")
    assert code == 2
    assert line.count("\n") == 1
    assert line.startswith("OUTBOX CRITICAL - 1 dead; oldest pending")


def test_check_with_json_prints_json_and_exits_as_without() -> None:
    make_messages(dead=1)
    code, text = check("--json", "--max-dead", "0")
    assert code == 1
    assert json.loads(text)["outbox"]["dead"] == 1


@pytest.mark.parametrize("error", ["connection refused\n\tIs the server running?", ""])
def test_check_is_critical_without_a_database(monkeypatch: pytest.MonkeyPatch, error: str) -> None:
    def away(using: str) -> None:
        raise OperationalError(error)

    monkeypatch.setattr(outbox_status, "outbox_status", away)
    code, line = check()
    reason = " ".join(error.split()) or "OperationalError"
    assert code == 2
    assert line.startswith(f"OUTBOX CRITICAL - The database 'default' does not answer ({reason}): ")
    assert line.count("\n") == 1


def test_check_is_critical_with_wrong_settings() -> None:
    with outbox_settings(MAX_RETRY=0):
        out = io.StringIO()
        with pytest.raises(SystemExit) as ended:
            call_command("outbox_status", "--check", stdout=out, skip_checks=False)
    assert ended.value.code == 2
    assert re.fullmatch(r"OUTBOX CRITICAL - .*MAX_RETRY.*\n", out.getvalue())


def test_check_is_critical_without_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Any, using: str) -> None:
        raise CommandError("The tables are not there.")

    monkeypatch.setattr(outbox_status.Command, "require_tables", missing)
    assert check() == (2, "OUTBOX CRITICAL - The tables are not there.\n")
    with pytest.raises(CommandError, match="The tables are not there"):
        status()


def test_status_without_a_database_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(using: str) -> None:
        raise OperationalError("connection refused\nby peer")

    monkeypatch.setattr(outbox_status, "outbox_status", away)
    with pytest.raises(CommandError, match=r"^The database 'default' does not answer \(connection refused by peer\): "):
        status()


@pytest.mark.parametrize("limit", ["--max-age", "--max-dead"])
def test_limit_that_nothing_is_compared_with_is_refused(limit: str) -> None:
    with pytest.raises(CommandError, match="add --check"):
        status(limit, "5")


@pytest.mark.parametrize(
    "arguments",
    [("--max-age", "-1"), ("--max-age", "nan"), ("--max-age", "inf"), ("--max-dead", "-1"), ("--max-dead", "1.5")],
)
def test_limits_are_numbers(arguments: tuple[str, str]) -> None:
    with pytest.raises(CommandError, match=f"argument {arguments[0]}: '{arguments[1]}' is"):
        status("--check", *arguments)
