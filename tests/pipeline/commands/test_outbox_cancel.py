"""outbox_cancel: the pending messages that were chosen are dead, with who cancelled them and why."""

from __future__ import annotations

import logging
import socket
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction

from django_outbox.models import OutboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.state.outbox import postpone
from tests.support.inbox import make_received
from tests.support.outbox import Status, in_thread, make_message, row, statuses
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db

WHY = ("--reason", "sent twice")


@pytest.fixture
def cancel(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command; returns what it wrote to its output and to its errors."""

    def cancel(*arguments: object) -> tuple[str, str]:
        with patch("getpass.getuser", return_value="ada"):
            call_command("outbox_cancel", *map(str, arguments))
        return tuple(capsys.readouterr())  # type: ignore[return-value]

    return cancel


def test_cancelled_message_is_dead_and_says_by_whom_and_why(cancel: Any) -> None:
    message, other = make_message(), make_message()
    assert cancel("--id", message.id, *WHY) == ("1 pending message dead now.\n", "")
    assert row(message).last_error == f"Cancelled by ada@{socket.gethostname()}.\n\nsent twice"
    assert (row(message).status, row(other).status) == ("dead", "pending")


def test_filters_choose(cancel: Any) -> None:
    chosen = make_message(event_type="order.paid", next_retry_at=DatabaseNow() + timedelta(days=1))
    make_message()
    make_message(Status.PUBLISHED, event_type="order.paid")
    assert cancel("--event-type", "order.paid", *WHY)[0] == "1 pending message dead now.\n"
    assert row(chosen).status == "dead"
    assert statuses() == ["dead", "pending", "published"]


def test_inbox(cancel: Any) -> None:
    make_message()
    message = make_received()
    cancel("--inbox", "--all", *WHY)
    message.refresh_from_db()
    assert (message.status, statuses()) == ("dead", ["pending"])


def test_messages_of_other_services_are_left_alone(cancel: Any) -> None:
    message = make_message(source="other")
    with pytest.raises(CommandError, match=f"^Message {message.id} has the source 'other': cancel it with that SOURCE"):
        cancel("--id", message.id, *WHY)
    assert row(message).status == "pending"


def test_messages_that_are_not_pending_are_named(cancel: Any) -> None:
    messages = [make_message(status) for status in Status.values]
    out, err = cancel("--id", *(message.id for message in messages), *WHY)
    assert out == "1 pending message dead now.\n"
    assert [line.split(" is ")[1] for line in err.splitlines()] == [
        "published, not pending.",
        "consumed, not pending.",
        "dead, not pending.",
    ]


@pytest.mark.databases("postgresql", "mariadb", "mysql")
@pytest.mark.django_db(transaction=True)
def test_message_that_is_being_sent_is_skipped(cancel: Any) -> None:
    sent = make_message()
    make_message()
    outputs: list[tuple[str, str]] = []
    with transaction.atomic():
        list(OutboxMessage.objects.select_for_update().filter(id=sent.id))
        with in_thread(lambda: outputs.append(cancel("--all", *WHY))):
            pass
    assert outputs[0][0] == ("1 pending message dead now.\n1 skipped: being sent or handled, or changed meanwhile.\n")
    assert statuses() == ["pending", "dead"]


def test_dry_run_changes_nothing(cancel: Any) -> None:
    message = make_message(message_key="k")
    out, _ = cancel("--all", "--dry-run", *WHY)
    assert out.startswith("1 pending message would be cancelled.\n         1  order.created\nAll:\n")
    assert f"{message.id:>10}  order.created key k, written " in out
    assert statuses() == ["pending"]


def test_messages_that_only_waited_for_it_are_counted(cancel: Any) -> None:
    message = make_message(message_key="k", next_retry_at=DatabaseNow() + timedelta(days=1))
    make_message(message_key="k", created_at=DatabaseNow() - timedelta(minutes=1))
    with transaction.atomic():
        postpone([message.id], using="default")
    assert (
        cancel("--id", message.id, *WHY)[0]
        == "1 pending message dead now.\n1 later message of their keys due now too.\n"
    )


@pytest.mark.parametrize("on_dead", ["hold", "continue"])
def test_command_says_if_the_keys_are_held(cancel: Any, on_dead: str) -> None:
    make_message(message_key="k")
    with outbox_settings(ON_DEAD=on_dead):
        out, _ = cancel("--all", *WHY)
    assert ("later messages with the same keys wait until you retry or delete" in out) == (on_dead == "hold")


@pytest.mark.parametrize("arguments", [["--all"], ["--all", "--reason", " "]])
def test_nothing_is_cancelled_without_a_reason(cancel: Any, arguments: list[str]) -> None:
    make_message()
    with pytest.raises(CommandError, match="--reason"):
        cancel(*arguments)
    assert statuses() == ["pending"]


def test_nothing_is_cancelled_without_a_choice(cancel: Any) -> None:
    make_message()
    with pytest.raises(CommandError, match="Select messages with filters"):
        cancel(*WHY)


def test_the_log_says_who_cancelled_what_and_why(cancel: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "django_outbox.operations")
    make_message(topic="orders")
    cancel("--topic", "orders", *WHY)
    assert [record.getMessage() for record in caplog.records] == [
        "ada: cancels pending messages (topic: orders): sent twice",
        "ada: has cancelled 1 pending message (topic: orders)",
    ]
