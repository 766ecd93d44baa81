"""outbox_retry: the dead messages that were chosen live again, and no others."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tests.outbox import Status, make_message, row, statuses

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
    (["--event-type", "order.paid", "--key", "nobody's"], []),
    (["--event-type", "order"], []),
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
    out, _ = retry(*arguments)
    assert [name for name, message in messages.items() if row(message).status == "pending"] == chosen
    assert out.startswith(f"{len(chosen)} dead message{'' if len(chosen) == 1 else 's'} pending again")


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
        f"No message {missing}.",
    ]
    assert statuses() == ["pending", "published", "consumed", "pending"]


@pytest.mark.parametrize("choice", ["--all", "--id"])
def test_dry_run_says_how_many_and_changes_nothing(retry: Any, choice: str) -> None:
    first, second, alive = make_dead(), make_dead(), make_message()
    ids = [first.id, second.id, alive.id] if choice == "--id" else []
    out, err = retry(choice, *ids, "--dry-run")
    assert out == "2 dead messages would be retried.\n"
    assert err == (f"Message {alive.id} is pending, not dead.\n" if ids else "")
    assert statuses() == ["dead", "dead", "pending"]


@pytest.mark.parametrize("arguments", [[], ["--dry-run"], ["--all", "--id", "1"], ["--all", "--topic", "x"]])
def test_nothing_is_retried_without_one_clear_choice(retry: Any, arguments: list[str]) -> None:
    make_dead()
    with pytest.raises(CommandError, match=r"^Choose messages by filters, such as --id 17, or all with --all\.$"):
        retry(*arguments)
    assert statuses() == ["dead"]


@pytest.mark.parametrize("wrong", ["0", "-1", "x", "1.5", "1,2", str(2**63), "9" * 5000])
def test_wrong_id_is_refused(retry: Any, wrong: str) -> None:
    with pytest.raises(CommandError, match=r"argument --id: '.*' is "):
        retry("--id", wrong)


def test_largest_id_is_just_not_there(retry: Any) -> None:
    assert retry("--id", 2**63 - 1) == ("0 dead messages pending again.\n", f"No message {2**63 - 1}.\n")
