"""outbox_retry: the dead messages that were chosen live again, and no others."""

from __future__ import annotations

import io
import logging
import os
import re
import signal
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from django_outbox.management import selecting
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.state import retry as retrying
from tests.support.inbox import make_received
from tests.support.outbox import Pipeline, Status, make_message, row, statuses
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db


@pytest.fixture
def retry(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command; returns what it wrote to its output and to its errors."""

    def retry(*arguments: object) -> tuple[str, str]:
        call_command("outbox_retry", *map(str, arguments))
        return tuple(capsys.readouterr())  # type: ignore[return-value]

    return retry


def make_dead(**fields: Any) -> Any:
    return make_message(Status.DEAD, retry_count=20, delivery_count=6, **{"last_error": "boom", **fields})


def test_retried_message_is_pending_due_and_uncounted(retry: Any) -> None:
    message = make_dead()
    assert retry("--id", message.id) == ("1 dead message pending again.\n", "")
    after = row(message)
    assert (after.status, after.retry_count, after.delivery_count, after.last_error) == ("pending", 0, 0, "boom")
    assert after.next_retry_at == after.updated_at


def test_several_ids(retry: Any) -> None:
    messages = [make_dead() for _ in range(3)]
    assert retry("--id", messages[0].id, messages[2].id)[0] == "2 dead messages pending again.\n"
    assert statuses() == ["pending", "dead", "pending"]


FILTERS: list[tuple[list[str], list[str]]] = [
    (["--event-type", "order.paid"], ["b", "c"]),
    (["--topic", "orders"], ["a", "b"]),
    (["--key", "k1"], ["a", "c"]),
    (["--key", ""], ["d"]),
    (["--error-contains", "onnection ref"], ["c"]),
    (["--event-type", "order.paid", "--topic", "orders"], ["b"]),
    (["--since", "3 days ago"], ["b", "c", "d"]),
    (["--until", "3d"], ["a"]),
    (["--since", "9d", "--until", "2d"], ["a", "b"]),
    (["--since", "2020-01-01", "--until", "2020-01-02T12:00Z"], []),
    (["--all"], ["a", "b", "c", "d"]),
]


@pytest.mark.parametrize(("arguments", "chosen"), FILTERS)
def test_filters_choose_and_all_have_to_match(retry: Any, arguments: list[str], chosen: list[str]) -> None:
    messages = {
        "a": make_dead(event_type="order.created", topic="orders", message_key="k1"),
        "b": make_dead(event_type="order.paid", topic="orders", message_key="k2"),
        "c": make_dead(event_type="order.paid", message_key="k1", last_error="Connection refused"),
        "d": make_dead(event_type="invoice.sent"),
    }
    for name, days in (("a", 8), ("b", 2.5)):
        died = DatabaseNow() - timedelta(days=days)
        OutboxMessage.objects.filter(id=messages[name].id).update(updated_at=died)
    if chosen:
        out, _ = retry(*arguments)
        assert out == f"{len(chosen)} dead message{'' if len(chosen) == 1 else 's'} pending again.\n"
    else:
        with pytest.raises(CommandError, match="No dead message matches"):
            retry(*arguments)
    assert [name for name, message in messages.items() if row(message).status == "pending"] == chosen


def test_all_means_all_the_dead(retry: Any) -> None:
    before = [make_message(status) for status in Status.values]
    assert retry("--all")[0] == "1 dead message pending again.\n"
    assert statuses() == ["pending", "published", "consumed", "pending"]
    assert row(before[0]).updated_at == before[0].updated_at


def test_messages_that_are_not_dead_are_named_and_left_alone(retry: Any) -> None:
    pending, published, consumed, dead = (make_message(status) for status in Status.values)
    missing = dead.id + 1000
    out, err = retry("--id", pending.id, published.id, consumed.id, dead.id, missing)
    assert out == "1 dead message pending again.\n"
    assert err.splitlines() == [
        f"Message {pending.id} is pending, not dead.",
        f"Message {published.id} is published, not dead.",
        f"Message {consumed.id} is consumed, not dead.",
        f"Message {missing} does not exist.",
    ]
    assert statuses() == ["pending", "published", "consumed", "pending"]


@pytest.mark.parametrize("choice", ["--all", "--id"])
def test_dry_run_says_how_many_and_which_and_changes_nothing(retry: Any, choice: str) -> None:
    first = make_dead(message_key="k1", fingerprint="KeyError in shop.handlers.ship", last_error="KeyError: 'pin 1234'")
    second, alive = make_dead(event_type="order.paid"), make_message()
    ids = [first.id, second.id, alive.id] if choice == "--id" else []
    out, err = retry(choice, *ids, "--dry-run")
    assert [re.sub(r"\d+-\d+-\d+ \d+:\d+:\d+", "TIME", line) for line in out.splitlines()] == [
        "2 dead messages would be retried.",
        "         1  order.created",
        "         1  order.paid",
        "All:",
        f"{second.id:>10}  order.paid, died TIME: reason unknown",
        f"{first.id:>10}  order.created key k1, died TIME: KeyError in shop.handlers.ship",
    ]
    assert err == (f"Message {alive.id} is pending, not dead.\n" if ids else "")
    assert statuses() == ["dead", "dead", "pending"]


def test_dry_run_shows_names_that_steer_no_terminal(retry: Any) -> None:
    make_dead(event_type="odd\x1b[2J", message_key="k\n\x9b1", fingerprint="F\x07")
    out, _ = retry("--all", "--dry-run")
    assert all(line.isprintable() for line in out.splitlines())
    assert r"odd\x1b[2J key k \x9b1, died " in out


def test_dry_run_says_of_a_record_that_could_not_be_read_that_it_has_no_type(retry: Any) -> None:
    message = make_received(Status.DEAD, event_type="", fingerprint="It cannot be read: it is no JSON.")
    out, _ = retry("--inbox", "--all", "--dry-run")
    assert re.search(
        rf"^ +1  \(no type\)\nAll:\n +{message.id}  \(no type\), died .*: It cannot be read", out, re.MULTILINE
    )


def test_dry_run_at_a_rate_says_how_long_it_would_take(retry: Any) -> None:
    for _ in range(3):
        make_dead()
    out, _ = retry("--all", "--rate", 1, "--dry-run")
    assert "The last would be due in 0:00:02.\n" in out
    assert "\nLater messages with the same keys, including new ones, would wait for them.\n" in out


def test_dry_run_mentions_no_later_messages_if_none_would_wait(retry: Any) -> None:
    make_dead()
    assert "Later messages" not in retry("--all", "--rate", 1, "--dry-run")[0]
    make_dead()
    with outbox_settings(ORDERING="none"):
        out, _ = retry("--all", "--rate", 1, "--dry-run")
    assert "The last would be due" in out
    assert "Later messages" not in out


def test_at_a_rate_the_last_is_due_later_than_the_first_and_the_command_does_not_wait(retry: Any) -> None:
    messages = [make_dead(message_key="k") for _ in range(5)]
    assert retry("--all", "--rate", 2)[0] == "5 dead messages pending again; the last is due in 0:00:02.\n"
    due = [row(message).next_retry_at for message in messages]
    assert due == sorted(due)
    assert round((due[4] - due[0]).total_seconds()) == 2


def test_ended_by_a_signal_it_leaves_the_rest_dead_and_says_so(retry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "BATCH_SIZE", 2)
    for _ in range(5):
        make_dead()

    def interrupt(execute: Any, sql: str, *arguments: Any) -> Any:
        if sql.startswith("UPDATE"):
            os.kill(os.getpid(), signal.SIGINT)
        return execute(sql, *arguments)

    with (
        connection.execute_wrapper(interrupt),
        pytest.raises(CommandError, match=r"^Stopped early: 3 are still dead\. Run the same command again") as ended,
    ):
        retry("--all")
    assert ended.value.returncode == 130
    assert statuses() == ["pending", "pending", "dead", "dead", "dead"]
    assert retry("--all")[0].endswith("\n3 dead messages pending again.\n")


def test_nothing_dead_is_no_error_where_all_are_asked_for(retry: Any) -> None:
    assert retry("--all")[0] == "0 dead messages pending again.\n"


def test_filters_that_match_nothing_are_an_error_that_repeats_them(retry: Any) -> None:
    make_dead()
    with pytest.raises(CommandError) as error:
        retry("--event-type", "order.create", "--since", "2h")
    assert str(error.value) == ("No dead message matches (event type: order.create; since: 2h). Nothing was retried.")


def test_ids_of_which_none_is_dead_are_an_error_that_says_what_they_are(retry: Any) -> None:
    alive = make_message()
    with pytest.raises(CommandError) as error:
        retry("--id", alive.id, alive.id + 1)
    assert str(error.value) == f"Message {alive.id} is pending, not dead.\nMessage {alive.id + 1} does not exist."


def test_the_log_says_who_retried_what(retry: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "django_outbox.operations")
    make_dead(topic="orders")
    with patch("getpass.getuser", return_value="ada"):
        retry("--topic", "orders", "--rate", 5)
    assert [record.getMessage() for record in caplog.records] == [
        "ada: retries dead messages (topic: orders), 5 per second",
        "ada: has retried 1 dead message (topic: orders)",
    ]
    assert caplog.records[0].action == "retry"  # type: ignore[attr-defined]


def test_a_user_without_a_name_may_retry_too(retry: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "django_outbox.operations")
    with patch("getpass.getuser", side_effect=KeyError("getpwuid(): uid not found: 1234")):
        retry("--all")
    assert caplog.records[0].getMessage().startswith("unknown user: ")


# Asking


class Terminal:
    """A person at a terminal, who gives one answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
        self.asked: list[str] = []
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", self.input)
        monkeypatch.setattr(selecting, "MANY", 2)
        self.answer = answer

    def input(self, question: str) -> str:
        self.asked.append(question)
        return self.answer

    def retry(self, *arguments: str) -> str:
        out = io.StringIO()
        out.isatty = lambda: True  # type: ignore[method-assign]
        call_command("outbox_retry", *arguments, stdout=out)
        return out.getvalue()


def test_many_are_retried_after_a_yes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        make_dead()
    person = Terminal(monkeypatch, "n")
    with pytest.raises(CommandError, match="Nothing was retried"):
        person.retry("--all")
    assert (person.asked, statuses()) == (["Retry 3 dead messages? [y/N] "], ["dead"] * 3)
    assert Terminal(monkeypatch, "Y").retry("--all") == "3 dead messages pending again.\n"


def test_what_dies_while_the_question_stands_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        make_dead()
    person = Terminal(monkeypatch, "y")

    def input(question: str) -> str:
        OutboxMessage.objects.filter(id=make_dead().id).update(updated_at=DatabaseNow() + timedelta(hours=1))
        return "y"

    monkeypatch.setattr("builtins.input", input)
    assert person.retry("--all") == "3 dead messages pending again.\n"
    assert statuses() == ["pending"] * 3 + ["dead"]


@pytest.mark.parametrize("arguments", [["--all", "--no-input"], ["--id", "{0}", "{1}"], ["--all", "--dry-run"]])
def test_few_and_scripts_are_not_asked_about(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    ids = [make_dead().id for _ in range(3)]
    person = Terminal(monkeypatch, "n")
    person.retry(*(argument.format(*ids) for argument in arguments))
    assert person.asked == []


@pytest.mark.parametrize("arguments", [[], ["--dry-run"], ["--all", "--id", "1"], ["--all", "--topic", "x"]])
def test_nothing_is_retried_without_one_clear_choice(retry: Any, arguments: list[str]) -> None:
    make_dead()
    with pytest.raises(
        CommandError, match=r"^Select messages with filters, such as --id 17, or all messages with --all\.$"
    ):
        retry(*arguments)
    assert statuses() == ["dead"]


@pytest.mark.parametrize("wrong", ["0", "-1", "x", "1.5", "1,2", str(2**63), "9" * 5000])
def test_wrong_id_is_refused(retry: Any, wrong: str) -> None:
    with pytest.raises(CommandError, match=r"argument --id: '.*' is "):
        retry("--id", wrong)


@pytest.mark.parametrize("option", ["--since", "--until"])
def test_wrong_time_is_refused_with_examples(retry: Any, option: str) -> None:
    with pytest.raises(
        CommandError, match=f"argument {option}: 'yesterday' is not a valid time; use for example 2026-11-24"
    ):
        retry(option, "yesterday")
    with pytest.raises(CommandError, match=f"argument {option}: '99999w' is too long; the maximum is 100 years"):
        retry(option, "99999w")


@pytest.mark.parametrize("rate", ["0", "-1", "x", "100001"])
def test_wrong_rate_is_refused(retry: Any, rate: str) -> None:
    with pytest.raises(CommandError, match=f"argument --rate: '{rate}' is "):
        retry("--all", "--rate", rate)


def test_largest_id_is_just_not_there(retry: Any) -> None:
    with pytest.raises(CommandError, match=f"^Message {2**63 - 1} does not exist\\.$"):
        retry("--id", 2**63 - 1)


# Messages that wait


def make_waiting(**fields: Any) -> OutboxMessage:
    return make_message(next_retry_at=DatabaseNow() + timedelta(days=1), **fields)


def test_waiting_messages_are_due_now(retry: Any) -> None:
    message, dead = make_waiting(retry_count=3), make_dead()
    assert retry("--waiting", "--all")[0] == "1 waiting message due now.\n"
    assert OutboxMessage.objects.due().filter(id=message.id).exists()
    assert (row(message).retry_count, row(dead).status) == (3, "dead")


def test_waiting_messages_of_the_inbox_are_due_now(retry: Any) -> None:
    make_waiting()
    message = make_received(next_retry_at=DatabaseNow() + timedelta(days=1))
    assert retry("--inbox", "--waiting", "--all")[0] == "1 waiting message due now.\n"
    assert [each.id for each in InboxMessage.objects.due()] == [message.id]
    assert not OutboxMessage.objects.due().exists()


def test_messages_that_do_not_wait_are_named(retry: Any) -> None:
    due, dead = make_message(), make_dead()
    with pytest.raises(CommandError) as error:
        retry("--waiting", "--id", due.id, dead.id)
    assert str(error.value) == f"Message {due.id} is due already.\nMessage {dead.id} is dead, not waiting."


def test_dry_run_says_until_when_messages_would_have_waited(retry: Any) -> None:
    make_waiting()
    out, _ = retry("--waiting", "--all", "--dry-run")
    assert out.startswith("1 waiting message would be retried.\n")
    assert "  order.created, due 2" in out
    assert not OutboxMessage.objects.due().exists()


def test_waiting_messages_get_no_rate(retry: Any) -> None:
    make_waiting()
    with pytest.raises(CommandError, match=r"^--rate cannot be combined"):
        retry("--waiting", "--all", "--rate", 1)


# Messages that were consumed


CONFIRMED = ("--yes", "--reason", "the report was wrong")


def test_consumed_messages_are_sent_and_handled_again(retry: Any) -> None:
    pipeline = Pipeline()
    pipeline.on("order.created")
    messages = [make_message(message_key="k") for _ in range(3)]
    pipeline.run()
    assert retry("--consumed", "--event-type", "order.created", "--since", "1h", *CONFIRMED)[0] == (
        "3 consumed messages pending again.\n"
    )
    assert {row(message).consumed_at for message in messages} == {None}
    pipeline.run()
    handled = [str(event.id) for event in pipeline.handled]
    assert handled == [str(message.event_id) for message in messages] * 2
    assert statuses() == ["consumed"] * 3


def test_only_consumed_messages_are_reprocessed(retry: Any) -> None:
    for status in Status.values:
        make_message(status, retry_count=2)
    retry("--consumed", "--all", *CONFIRMED)
    assert statuses() == ["pending", "published", "pending", "dead"]
    assert row(OutboxMessage.objects.order_by("id")[2]).retry_count == 0


def test_messages_consumed_before_are_left_alone(retry: Any) -> None:
    old, new = make_message(Status.CONSUMED), make_message(Status.CONSUMED)
    OutboxMessage.objects.filter(id=old.id).update(updated_at=DatabaseNow() - timedelta(days=2))
    retry("--consumed", "--since", "1d", *CONFIRMED)
    assert (row(old).status, row(new).status) == ("consumed", "pending")


def test_reprocessing_has_a_rate_and_a_dry_run(retry: Any) -> None:
    messages = [make_message(Status.CONSUMED) for _ in range(3)]
    out, _ = retry("--consumed", "--all", "--rate", 1, "--dry-run")
    assert out.startswith("3 consumed messages would be reprocessed.\nThe last would be due in 0:00:02.\n")
    assert statuses() == ["consumed"] * 3
    assert retry("--consumed", "--all", "--rate", 1, *CONFIRMED)[0] == (
        "3 consumed messages pending again; the last is due in 0:00:02.\n"
    )
    due = [row(message).next_retry_at for message in messages]
    assert round((due[2] - due[0]).total_seconds()) == 2


@pytest.mark.parametrize("arguments", [[], ["--yes"], ["--reason", "x"], ["--yes", "--reason", " "]])
def test_nothing_is_reprocessed_without_confirmation_and_reason(retry: Any, arguments: list[str]) -> None:
    make_message(Status.CONSUMED)
    with pytest.raises(CommandError, match=r"^--consumed runs handlers again .* confirm with --yes --reason"):
        retry("--consumed", "--all", *arguments)
    assert statuses() == ["consumed"]


def test_inbox_keeps_no_content_to_reprocess(retry: Any) -> None:
    with pytest.raises(CommandError, match="content has been removed"):
        retry("--inbox", "--consumed", "--all", *CONFIRMED)


def test_the_log_says_why_messages_were_reprocessed(retry: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "django_outbox.operations")
    make_message(Status.CONSUMED)
    with patch("getpass.getuser", return_value="ada"):
        retry("--consumed", "--all", *CONFIRMED)
    assert [record.getMessage() for record in caplog.records] == [
        "ada: reprocesses consumed messages (all), all at once: the report was wrong",
        "ada: has reprocessed 1 consumed message (all)",
    ]


def test_one_kind_at_a_time(retry: Any) -> None:
    with pytest.raises(CommandError, match="not allowed with argument"):
        retry("--waiting", "--consumed", "--all")
