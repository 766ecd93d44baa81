"""outbox_purge: what ended long enough ago is deleted, and nothing that may still be wanted."""

from __future__ import annotations

import io
import os
import re
import signal
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_outbox.management.commands import outbox_purge
from django_outbox.models import Activity, MessageFailure, OutboxMessage, Worker
from django_outbox.models.fields import DatabaseNow
from django_outbox.state.purging import delete_batch
from django_outbox.state.retry import retry
from tests.support.inbox import make_received
from tests.support.outbox import Status, in_thread, make_message, statuses
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)


def purge(*arguments: str) -> list[str]:
    out = io.StringIO()
    call_command("outbox_purge", *arguments, stdout=out)
    return out.getvalue().splitlines()


def make_old(status: str, age: timedelta) -> OutboxMessage:
    """A message whose last change is so long ago."""
    message = make_message(status)
    OutboxMessage.objects.filter(id=message.id).update(
        created_at=DatabaseNow() - age - 100 * DAY, updated_at=DatabaseNow() - age
    )
    return message


def test_finished_messages_are_deleted_after_a_week() -> None:
    for status in (Status.CONSUMED, Status.PUBLISHED):
        for age in (6 * DAY, 8 * DAY):
            make_old(status, age)
    assert purge() == ["1 consumed messages deleted.", "1 published messages deleted."]
    assert statuses() == ["consumed", "published"]
    assert not OutboxMessage.objects.filter(updated_at__lt=DatabaseNow() - 7 * DAY).exists()


@pytest.mark.parametrize("arguments", [[], ["--dry-run"]])
def test_progress_goes_from_nothing_to_all_however_full_each_table_is(arguments: list[str]) -> None:
    for _ in range(4):
        make_old(Status.CONSUMED, 8 * DAY)
    with (
        patch.object(outbox_purge, "COUNTED_AT_ONCE", 1),
        patch.object(outbox_purge.Progress, "show") as show,
    ):
        purge("--batch-size", "1", *arguments)
    assert [call.args[0] for call in show.call_args_list] == [0.25, 0.5, 0.75, 1.0]

    make_received(Status.CONSUMED)
    with patch.object(outbox_purge.Progress, "show") as show:
        purge("--batch-size", "1", *arguments)
    assert show.call_args_list[-1].args[0] == 1.0


@pytest.mark.parametrize("status", [Status.PENDING, Status.DEAD])
def test_pending_and_dead_messages_are_kept_however_old(status: str) -> None:
    message = make_old(status, 3650 * DAY)
    purge()
    assert OutboxMessage.objects.get() == message


def test_ages_come_from_the_settings() -> None:
    for status in Status.values:
        make_old(status, 2 * DAY)
    with outbox_settings(RETENTION={"consumed": None, "published": 3 * DAY, "dead": DAY}):
        assert purge() == ["0 published messages deleted.", "1 dead messages deleted."]
    assert statuses() == ["pending", "published", "consumed"]


def test_age_of_nothing_deletes_all_of_that_state() -> None:
    make_old(Status.CONSUMED, timedelta(milliseconds=5))
    with outbox_settings(RETENTION={"consumed": timedelta(0)}):
        purge()
    assert statuses() == []


def test_dry_run_deletes_nothing() -> None:
    make_old(Status.CONSUMED, 8 * DAY)
    make_old(Status.DEAD, 8 * DAY)
    assert purge("--dry-run") == ["1 consumed messages would be deleted.", "0 published messages would be deleted."]
    assert statuses() == ["consumed", "dead"]


@pytest.mark.parametrize(("size", "deletes"), [(2, 3), (5, 1), (6, 1)])
def test_messages_are_deleted_in_batches(size: int, deletes: int) -> None:
    for _ in range(5):
        make_old(Status.CONSUMED, 8 * DAY)
    with CaptureQueriesContext(connection) as queries:
        assert purge("--batch-size", str(size))[0] == "5 consumed messages deleted."
    assert (
        len([query for query in queries if re.match("DELETE FROM .django_outbox_outboxmessage", query["sql"])])
        == deletes
    )
    assert statuses() == []


@pytest.mark.databases("postgresql", "mariadb", "mysql")
@pytest.mark.django_db(transaction=True)
def test_message_that_is_retried_meanwhile_survives() -> None:
    wanted = make_old(Status.DEAD, 8 * DAY)
    make_old(Status.DEAD, 8 * DAY)
    with transaction.atomic():
        retry(OutboxMessage.objects.filter(id=wanted.id), using="default")
        with in_thread(purge_dead):
            pass
    assert list(OutboxMessage.objects.all()) == [wanted]
    assert statuses() == ["pending"]


def purge_dead() -> None:
    with outbox_settings(RETENTION={"consumed": None, "published": None, "dead": 7 * DAY}):
        assert purge("--batch-size", "2") == ["1 dead messages deleted."]


@pytest.mark.parametrize("others", [False, True], ids=["", "where a project has foreign keys of its own"])
def test_failures_go_with_their_message(others: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if others:
        monkeypatch.setattr(MessageFailure._meta, "app_label", "shop")
    message = make_old(Status.DEAD, 8 * DAY)
    kept = make_message()
    for each in (message, kept):
        MessageFailure.objects.create(
            message=each, worker="w", stage="send", attempt=1, final=True, error="e", fingerprint="f"
        )
    with outbox_settings(RETENTION={"consumed": None, "published": None, "dead": 7 * DAY}):
        assert purge() == ["1 dead messages deleted."]
    assert [failure.message_id for failure in MessageFailure.objects.all()] == [kept.id]


@pytest.mark.parametrize("size", ["0", "-1", "x", "10001"])
def test_wrong_batch_size_is_refused(size: str) -> None:
    with pytest.raises(CommandError, match=f"argument --batch-size: '{size}' is"):
        purge("--batch-size", size)


def test_largest_batch_is_no_trouble_for_the_database() -> None:
    make_old(Status.CONSUMED, 8 * DAY)
    expired = OutboxMessage.objects.all()
    assert delete_batch(expired, [*range(10_000), expired.get().id], using="default") == ["consumed"]


@pytest.mark.parametrize("status", Status.values)
def test_dead_letters_are_deleted_if_they_are_named(status: str) -> None:
    make_old(status, 3 * DAY)
    assert "1 dead messages deleted." not in purge("--dead", "4d")
    assert ("1 dead messages deleted." in purge("--dead", "2 days")) == (status == Status.DEAD)
    assert statuses() == ([] if status == Status.DEAD else [status])


@pytest.mark.parametrize("age", ["", "x", "3", "1.5d", "2026-11-24", "99999w"])
def test_wrong_age_is_refused(age: str) -> None:
    with pytest.raises(CommandError, match="argument --dead: "):
        purge("--dead", age)


def test_what_has_yet_to_be_handled_is_kept_and_a_dry_run_says_so() -> None:
    message = make_old(Status.PUBLISHED, 8 * DAY)
    make_old(Status.PUBLISHED, 6 * DAY)
    OutboxMessage.objects.update(event_type="test.effect")  # which has a handler
    assert purge("--dry-run") == [
        "0 consumed messages would be deleted.",
        "0 published messages would be deleted.",
        "1 published messages are old enough, but kept: a handler of this project has yet to handle them. "
        "Check that outbox_consume is running.",
    ]
    purge()
    assert OutboxMessage.objects.filter(id=message.id).exists()


def test_ended_by_a_signal_it_says_what_it_has_done() -> None:
    for _ in range(5):
        make_old(Status.CONSUMED, 8 * DAY)
    out = io.StringIO()

    def interrupted(*arguments: Any, **options: Any) -> list[str]:
        os.kill(os.getpid(), signal.SIGTERM)
        return delete_batch(*arguments, **options)

    with (
        patch("django_outbox.state.purging.delete_batch", interrupted),
        pytest.raises(CommandError, match="Run it again to continue") as ended,
    ):
        call_command("outbox_purge", "--batch-size", "2", stdout=out)
    assert out.getvalue().splitlines()[0] == "2 consumed messages deleted."
    assert (ended.value.returncode, len(statuses())) == (130, 3)
    assert purge()[0] == "3 consumed messages deleted."


def test_rows_of_workers_and_of_activity_go_as_well() -> None:
    """As of drains, which write the one and have no heartbeat that would clear up."""
    Worker.objects.create(kind="relay", host="h", pid=1, version="", last_seen_at=DatabaseNow() - 2 * DAY)
    now = timezone.now()
    for age in (timedelta(0), 3 * DAY):
        Activity.objects.create(period=now - age)
    purge("--dry-run")
    assert Activity.objects.count() == 2
    purge()
    assert (Worker.objects.count(), [each.period for each in Activity.objects.all()]) == (0, [now])
