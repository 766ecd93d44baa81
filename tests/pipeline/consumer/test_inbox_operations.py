"""The inbox in the commands of operators: outbox_status, outbox_retry, outbox_purge."""

from __future__ import annotations

import io
import json
import re
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from django_outbox.models import InboxMessage
from django_outbox.models.fields import DatabaseNow
from tests.support.inbox import Status, make_received, statuses
from tests.support.outbox import make_message
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)


def run(command: str, *arguments: str) -> list[str]:
    out = io.StringIO()
    call_command(command, *arguments, stdout=out, stderr=out)
    return out.getvalue().splitlines()


def check(*arguments: str) -> tuple[Any, str]:
    out = io.StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("outbox_status", "--check", *arguments, stdout=out)
    return ended.value.code, out.getvalue().strip()


def make_old(status: str, age: timedelta) -> InboxMessage:
    message = make_received(status)
    then = DatabaseNow() - age
    due = {"next_retry_at": then} if status == "pending" else {}
    InboxMessage.objects.filter(id=message.id).update(created_at=then, updated_at=then, **due)
    return message


# outbox_status


def test_status_has_the_counts_of_the_inbox() -> None:
    make_old("pending", DAY)
    for status, count in {"pending": 1, "consumed": 2, "dead": 3}.items():
        for _ in range(count):
            make_received(status)
    found = json.loads("\n".join(run("outbox_status", "--json")))["inbox"]
    assert {name: found[name] for name in Status.values} == {"pending": 2, "consumed": 2, "dead": 3}
    assert found["oldest_pending_seconds"] == pytest.approx(86400, abs=60)
    shown = "\n".join(run("outbox_status"))
    assert re.search(r"^INBOX .*\npending +2 +1 d .*\nconsumed +2\ndead +3$", shown, re.MULTILINE), shown


def test_an_empty_inbox_is_not_shown_to_people() -> None:
    assert json.loads("\n".join(run("outbox_status", "--json")))["inbox"]["oldest_pending_seconds"] is None
    assert "inbox" not in "\n".join(run("outbox_status"))


def test_check_looks_at_the_inbox_too() -> None:
    make_old("pending", timedelta(seconds=100))
    make_received(Status.DEAD)
    assert check("--max-age", "50")[0] == 2
    assert re.search(r"a pending inbox message has been due for 10\d s", check("--max-age", "50")[1])
    code, said = check("--max-dead", "0")
    assert (code, said.partition(" | ")[0]) == (1, "OUTBOX WARNING - 1 dead in the inbox")
    assert check("--max-age", "150", "--max-dead", "1")[0] == 0


# outbox_retry


def test_retry_chooses_the_inbox() -> None:
    dead = make_received(Status.DEAD, event_type="a")
    make_received(Status.DEAD, event_type="b")
    of_outbox = make_message("dead", id=dead.id, event_type="a")

    assert run("outbox_retry", "--inbox", "--event-type", "a", "--dry-run")[0] == "1 dead message would be retried."
    assert run("outbox_retry", "--inbox", "--event-type", "a") == ["1 dead message pending again."]

    of_outbox.refresh_from_db()
    assert (statuses(), of_outbox.status) == (["pending", "dead"], "dead")
    with pytest.raises(CommandError, match=f"Message {dead.id} is pending, not dead"):
        run("outbox_retry", "--inbox", "--id", str(dead.id))
    assert run("outbox_retry", "--inbox", "--all") == ["1 dead message pending again."]


def test_retry_of_the_outbox_leaves_the_inbox_alone() -> None:
    make_received(Status.DEAD)
    run("outbox_retry", "--all")
    assert statuses() == ["dead"]
    with pytest.raises(CommandError, match="Select messages"):
        run("outbox_retry", "--inbox")


# outbox_purge


def test_consumed_messages_of_the_inbox_are_deleted_after_a_week_and_no_others() -> None:
    for status in Status.values:
        make_old(status, 3650 * DAY)
    make_old("consumed", 6 * DAY)
    assert run("outbox_purge", "--dry-run")[-1] == "1 inbox messages would be deleted."
    assert run("outbox_purge")[-1] == "1 inbox messages deleted."
    assert statuses() == ["pending", "dead", "consumed"]
    assert not any("inbox" in line for line in run("outbox_purge"))


def test_the_retention_of_the_inbox_is_a_setting_of_its_own() -> None:
    make_old("consumed", 2 * DAY)
    with outbox_settings(RETENTION={"inbox": None, "consumed": DAY}):
        run("outbox_purge")
        assert statuses() == ["consumed"]
    with outbox_settings(RETENTION={"inbox": DAY}):
        run("outbox_purge")
        assert statuses() == []


def test_dead_letters_of_the_inbox_are_deleted_if_that_is_asked_for() -> None:
    for age in (8 * DAY, 6 * DAY):
        make_old("dead", age)
    assert run("outbox_purge", "--dead", "1w")[-1] == "1 dead inbox messages deleted."
    with outbox_settings(RETENTION={"dead": 5 * DAY}):
        assert run("outbox_purge")[-1] == "1 dead inbox messages deleted."
