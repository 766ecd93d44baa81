"""Running: relay and consumer carry tasks, and their rows say what became of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import transaction
from django.tasks import TaskResult, TaskResultStatus, default_task_backend
from django.tasks.exceptions import TaskResultDoesNotExist, TaskResultMismatch
from django.tasks.signals import task_finished, task_started
from django.test import override_settings
from django.utils import timezone

from django_outbox.exceptions import HandlersNotImportable, OutboxError, Reject, TaskExited
from django_outbox.handlers.registry import GroupHandlers, Registry
from django_outbox.models import OutboxMessage, TaskRun
from django_outbox.state import outbox as state
from django_outbox.state import transitions
from django_outbox.tasks.loading import load_tasks
from django_outbox.testing import deliver, delivering, drain
from tests.pipeline.tasks.conftest import Configure
from tests.support.app import tasks
from tests.support.effects import effects
from tests.support.outbox import make_message
from tests.support.overrides import outbox_settings

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("registry")]


@pytest.fixture
def told() -> Iterator[list[tuple[str, str, int]]]:
    """Signals, the status that they told, and how many attempts there were then."""
    found: list[tuple[str, str, int]] = []

    def started(sender: Any, task_result: TaskResult[Any, Any], **about: Any) -> None:
        found.append(("started", task_result.status, task_result.attempts))

    def finished(sender: Any, task_result: TaskResult[Any, Any], **about: Any) -> None:
        found.append(("finished", task_result.status, task_result.attempts))

    task_started.connect(started)
    task_finished.connect(finished)
    yield found
    task_started.disconnect(started)
    task_finished.disconnect(finished)


@pytest.mark.parametrize("task", [tasks.add, tasks.add_soon])
def test_a_task_runs_and_its_value_is_stored(task: Any) -> None:
    result = task.enqueue(1, second=2)
    assert not result.is_finished
    assert drain().consumed == 1

    assert effects() == ["add 1 2"]
    result.refresh()
    assert (result.status, result.return_value, result.errors) == (TaskResultStatus.SUCCESSFUL, 3, [])
    assert result.attempts == 1
    assert ":" in result.worker_ids[0]
    assert result.enqueued_at <= result.started_at == result.last_attempted_at <= result.finished_at


def test_a_task_that_fails_is_tried_again_and_its_effects_are_rolled_back(told: list[Any]) -> None:
    tasks.fails_left[:] = [ValueError("first"), OSError("second")]
    result = tasks.fails_at_first.enqueue()
    drain(raise_errors=False)

    result.refresh()
    value = result.return_value
    assert (value["attempt"], value["status"], value["id"]) == (3, "RUNNING", result.id)
    assert value["errors"] == ["builtins.OSError", "builtins.ValueError"]
    assert [error.exception_class for error in result.errors] == [OSError, ValueError]
    assert "second" in result.errors[0].traceback
    assert (result.attempts, len(result.worker_ids)) == (3, 3)
    assert told == [
        ("started", "RUNNING", 1),
        ("started", "RUNNING", 2),
        ("started", "RUNNING", 3),
        ("finished", "SUCCESSFUL", 3),
    ]


def test_a_task_that_always_fails_is_dead(told: list[Any], configure: Configure) -> None:
    configure(MAX_RETRY=2)
    result = tasks.fails.enqueue()
    drain(raise_errors=False)

    assert effects() == []
    result.refresh()
    assert (result.status, result.attempts) == (TaskResultStatus.FAILED, 2)
    assert [error.exception_class for error in result.errors] == [ArithmeticError] * 2
    assert result.finished_at is not None
    with pytest.raises(ValueError, match="Task failed"):
        _ = result.return_value
    assert OutboxMessage.objects.get().status == "dead"
    assert told[-1] == ("finished", "FAILED", 2)


@pytest.mark.parametrize(
    ("task", "error_class", "reason"),
    [
        (tasks.rejects, Reject, "never"),
        (tasks.returns_an_object, OutboxError, "What the task returned cannot be stored: Unsupported type"),
        (tasks.returns_nul, OutboxError, "cannot be stored: payload: it contains a NUL character"),
    ],
)
def test_a_task_that_cannot_succeed_is_dead_at_once(task: Any, error_class: type[Exception], reason: str) -> None:
    result = task.enqueue()
    drain(raise_errors=False)
    result.refresh()
    (error,) = result.errors
    assert (error.exception_class, result.status) == (error_class, TaskResultStatus.FAILED)
    assert reason in error.traceback


def test_a_task_that_exits_ends_no_consumer(configure: Configure) -> None:
    configure(MAX_RETRY=1)
    result = tasks.exits.enqueue()
    drain(raise_errors=False)
    result.refresh()
    (error,) = result.errors
    assert error.exception_class is TaskExited
    assert "The task called sys.exit('no disk')." in error.traceback
    assert 'in exits\n    sys.exit("no disk")' in error.traceback


def test_a_task_that_a_relay_could_not_send_has_no_error_of_its_own() -> None:
    result = tasks.add.enqueue(1)
    message = OutboxMessage.objects.get()
    transitions.mark_dead(state.to_send(message.id, 1, using="default"), "The broker: refused.")
    result.refresh()
    (error,) = result.errors
    assert error.exception_class_path == "django_outbox.exceptions.OutboxError"
    assert (result.status, result.attempts, result.started_at) == (TaskResultStatus.FAILED, 0, None)


def test_an_operator_may_run_it_again() -> None:
    result = tasks.add.enqueue(1)
    drain()
    call_command("outbox_retry", "--consumed", "--all", yes=True, reason="again", verbosity=0)
    result.refresh()
    assert result.status == TaskResultStatus.READY
    drain()
    assert TaskRun.objects.count() == 1
    assert effects() == ["add 1 0"] * 2


def test_a_task_runs_whatever_its_queue(configure: Configure) -> None:
    registry = configure("slow")
    with outbox_settings(TASK_TOPICS={"slow": "slow-tasks"}):
        for queue in ("default", "slow"):
            tasks.add.using(queue_name=queue).enqueue(1)
        assert {"outbox", "slow-tasks"} <= GroupHandlers(registry, "tests").default_topics
        drain()
    assert effects() == ["add 1 0"] * 2


def test_a_task_runs_though_its_topic_is_another_one_now() -> None:
    tasks.add.enqueue(1)
    tasks.add.using(run_after=timezone.now() + timedelta(hours=1)).enqueue(2)
    with outbox_settings(ROUTES={"task:*": "tasks"}):
        drain()
    assert effects() == ["add 1 0", "add 2 0"]


def test_a_task_that_is_loaded_twice_runs_once(registry: Registry) -> None:
    load_tasks(registry)
    tasks.add.enqueue(1)
    drain()
    assert effects() == ["add 1 0"]


def test_a_task_without_a_function_is_never_deleted(settings: Any) -> None:
    make_message("published", event_type="task:shop.tasks.gone", updated_at=LONG_AGO)
    make_message("published", event_type="order.for.others", updated_at=LONG_AGO)
    settings.TASKS = {}
    call_command("outbox_purge", verbosity=0)
    assert OutboxMessage.objects.get().event_type == "task:shop.tasks.gone"


def test_a_copy_of_a_dead_task_does_not_run(configure: Configure) -> None:
    configure(MAX_RETRY=1)
    with outbox_settings(DEAD_LETTER_TOPIC="dead"):
        tasks.exits.enqueue()
        drain(raise_errors=False)
        copy = OutboxMessage.objects.get(topic="dead")
        assert copy.event_type == "task:tests.support.app.tasks.exits"
        with outbox_settings(TOPIC="dead"):  # a consumer reads it
            drain()
    copy.refresh_from_db()
    assert copy.status == "consumed"
    assert TaskRun.objects.count() == 0


def test_an_event_of_another_service_runs_no_task(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivering, "registry", registry)
    payload = {"args": [1], "kwargs": {}, "backend": "default", "queue_name": "default"}
    deliver("task:tests.support.app.tasks.add", payload, source="billing")
    drain()
    assert effects() == []


def test_results_are_kept_as_long_as_their_messages() -> None:
    result = tasks.add.enqueue(1)
    drain()
    with outbox_settings(RETENTION={"consumed": timedelta(0)}):
        call_command("outbox_purge", verbosity=0)
    assert TaskRun.objects.count() == 0
    with pytest.raises(TaskResultDoesNotExist):
        result.refresh()


@pytest.mark.parametrize("id", ["", "x", "00000000-0000-0000-0000-000000000000", None, 5, uuid.UUID(int=0)])
def test_a_result_that_is_not_there(id: Any) -> None:
    with pytest.raises(TaskResultDoesNotExist):
        default_task_backend.get_result(id)


def test_a_result_of_another_task_is_not_returned() -> None:
    result = tasks.add.enqueue(1)
    with pytest.raises(TaskResultMismatch):
        tasks.fails.get_result(result.id)
    assert tasks.add.get_result(result.id).id == result.id


def test_a_result_of_a_function_that_is_gone() -> None:
    result = tasks.add.enqueue(1)
    OutboxMessage.objects.update(event_type="task:tests.support.app.tasks.gone")
    with pytest.raises(TaskResultDoesNotExist, match="gone"):
        default_task_backend.get_result(result.id)


def test_a_result_whose_message_was_edited() -> None:
    result = tasks.add.enqueue(1)
    OutboxMessage.objects.update(payload={})
    with pytest.raises(TaskResultDoesNotExist):
        default_task_backend.get_result(result.id)


def test_other_messages_are_no_tasks() -> None:
    tasks.publishes.enqueue()
    drain(raise_errors=False)
    message = OutboxMessage.objects.get(event_type="order.created")
    with pytest.raises(TaskResultDoesNotExist):
        default_task_backend.get_result(str(message.event_id))


def test_a_deferred_task_runs_when_its_time_has_come() -> None:
    with transaction.atomic():
        tasks.add.using(run_after=timezone.now() + timedelta(hours=1)).enqueue(1)
    drain(max_wait=60)
    assert effects() == []
    drain()
    assert effects() == ["add 1 0"]


def test_a_task_runs_on_the_database_of_its_consumer(other: str) -> None:
    """Which its option may name: here, another connection."""
    result = tasks.fails_at_first.enqueue()
    assert drain(using=other).consumed == 1
    result.refresh()
    assert result.return_value["id"] == result.id


@pytest.mark.parametrize("is_installed", [True, False], ids=["of a package", "of the project"])
def test_an_app_whose_tasks_cannot_be_imported(
    is_installed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    configure: Configure,
) -> None:
    folder = tmp_path / ("site-packages" if is_installed else "src")
    app = folder / f"app_of_{'others' if is_installed else 'ours'}"
    app.mkdir(parents=True)
    (app / "__init__.py").touch()
    (app / "tasks.py").write_text("import celery_that_is_not_there\n")
    monkeypatch.syspath_prepend(folder)
    with override_settings(INSTALLED_APPS=[*settings.INSTALLED_APPS, app.name]):
        if is_installed:
            configure()
            assert f"Tasks of {app.name} are not run: {app.name}.tasks cannot be imported" in caplog.text
        else:
            with pytest.raises(HandlersNotImportable, match=app.name):
                configure()
