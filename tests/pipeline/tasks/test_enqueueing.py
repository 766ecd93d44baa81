"""Enqueueing: what is written, in which transaction, and what is refused."""

from __future__ import annotations

import re
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction
from django.tasks import TaskResultStatus, default_task_backend, task, task_backends
from django.tasks.exceptions import InvalidTask
from django.tasks.signals import task_enqueued
from django.utils import timezone

from django_outbox import handler, publish
from django_outbox.exceptions import InvalidMessage, TransactionRequired
from django_outbox.models import OutboxMessage
from tests.pipeline.tasks.conftest import Configure
from tests.support.app import tasks
from tests.support.app.models import Effect
from tests.support.overrides import outbox_settings

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("registry")]


def only_message() -> OutboxMessage:
    return OutboxMessage.objects.get()


def test_a_task_is_a_message_of_the_outbox() -> None:
    result = tasks.add.enqueue(1, second=2)

    message = only_message()
    assert message.event_type == "task:tests.support.app.tasks.add"
    assert message.payload == {"args": [1], "kwargs": {"second": 2}, "backend": "default", "queue_name": "default"}
    assert (message.status, message.message_key, message.topic) == ("pending", "", "outbox")
    assert (result.id, result.enqueued_at) == (str(message.event_id), message.created_at)
    assert (result.status, result.args, result.kwargs) == (TaskResultStatus.READY, [1], {"second": 2})
    assert (result.backend, result.task, result.errors, result.attempts) == ("default", tasks.add, [], 0)
    assert (result.started_at, result.last_attempted_at, result.finished_at) == (None, None, None)


def test_a_task_exists_exactly_if_the_data_does() -> None:
    with transaction.atomic():
        Effect.objects.create(name="order")
        tasks.add.enqueue(1)
        transaction.set_rollback(True)
    assert not OutboxMessage.objects.exists()
    with transaction.atomic():
        Effect.objects.create(name="order")
        tasks.add.enqueue(1)
    assert OutboxMessage.objects.count() == Effect.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_outside_of_a_transaction_it_is_stored_at_once() -> None:
    tasks.add.enqueue(1)
    assert only_message().status == "pending"


@pytest.mark.django_db(transaction=True)
def test_it_is_enqueued_from_async_code() -> None:
    result = async_to_sync(tasks.add.aenqueue)(1, second=2)
    assert str(only_message().event_id) == result.id
    assert async_to_sync(tasks.add.aget_result)(result.id).args == [1]


def test_the_queue_chooses_the_topic(configure: Configure) -> None:
    configure("slow", "other")
    with outbox_settings(ROUTES={"task:*": "tasks"}, TASK_TOPICS={"slow": "slow-tasks"}):
        for queue in ("slow", "other", "default"):
            tasks.add.using(queue_name=queue).enqueue(1)
    topics = OutboxMessage.objects.order_by("id").values_list("topic", flat=True)
    assert list(topics) == ["slow-tasks", "tasks", "tasks"]


def test_a_task_may_be_deferred() -> None:
    in_an_hour = timezone.now() + timedelta(hours=1)
    result = tasks.add.using(run_after=in_an_hour).enqueue(1)
    due = only_message().next_retry_at
    assert due is not None
    assert abs(due - in_an_hour) < timedelta(minutes=10)
    assert default_task_backend.get_result(result.id).task.run_after == in_an_hour


def test_a_time_that_is_past_is_no_delay() -> None:
    tasks.add.using(run_after=timezone.now() - timedelta(days=1)).enqueue(1)
    assert OutboxMessage.objects.due().count() == 1


def test_the_number_of_failures_allowed_is_an_option(configure: Configure) -> None:
    tasks.add.enqueue(1)
    configure(MAX_RETRY=3)
    tasks.add.enqueue(1)
    assert list(OutboxMessage.objects.order_by("id").values_list("max_retry", flat=True)) == [20, 3]


def test_receivers_are_told() -> None:
    told: list[tuple[Any, str]] = []

    def receive(sender: Any, task_result: Any, **about: Any) -> None:
        told.append((sender, task_result.id))

    task_enqueued.connect(receive)
    try:
        result = tasks.add.enqueue(1)
    finally:
        task_enqueued.disconnect(receive)
    assert told == [(type(task_backends["default"]), result.id)]


def test_no_type_needs_to_be_declared_for_a_task() -> None:
    with outbox_settings(EVENT_TYPES="required"):
        tasks.add.enqueue(1)
    assert only_message().event_version == "v1"


@pytest.mark.parametrize("argument", [object(), {1, 2}, timezone.now()])
def test_arguments_are_values_of_json(argument: Any) -> None:
    with transaction.atomic():
        with pytest.raises(TypeError):
            tasks.add.enqueue(argument)
        Effect.objects.create(name="goes on")
    assert not OutboxMessage.objects.exists()


def test_what_the_outbox_refuses_harms_no_transaction() -> None:
    with transaction.atomic(), outbox_settings(MAX_PAYLOAD_BYTES=100):
        with pytest.raises(InvalidMessage, match="the limit is 100"):
            tasks.add.enqueue("x" * 100)
        tasks.add.enqueue("x")
    assert OutboxMessage.objects.count() == 1


@task
def of_a_test() -> None:
    """In a module that no consumer imports."""


def test_a_task_that_no_consumer_would_find_is_refused(configure: Configure) -> None:
    with pytest.raises(InvalidTask, match=f'Move it to the module tasks .* or add {__name__!r} to OPTIONS."MODULES".'):
        of_a_test.enqueue()
    registry = configure(MODULES=[__name__])
    of_a_test.enqueue()
    types = {handler.event_type for _, handler in registry.of_all_groups()}
    assert only_message().event_type in types


def test_a_task_in_a_folder_that_consumers_do_not_look_into_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configure: Configure
) -> None:
    """Python imports from a folder without ``__init__.py``, and does not list it among the modules of its package."""
    package = ModuleType("tests.support.app.tasks.found")
    package.__file__ = str(tmp_path / "__init__.py")
    folder = ModuleType("tests.support.app.tasks.found.folder")
    name = f"{folder.__name__}.jobs"
    module = ModuleType(name)
    exec("def work(): ...", module.__dict__)  # noqa: S102
    module.work = task(module.work)  # type: ignore[attr-defined]
    for each in (package, folder, module):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    with pytest.raises(InvalidTask, match="No consumer would find"):
        module.work.enqueue()
    folder.__file__ = str(tmp_path / "folder" / "__init__.py")
    module.work.enqueue()


@pytest.mark.django_db(transaction=True)
def test_a_transaction_on_another_database_is_refused(other: str) -> None:
    with (
        transaction.atomic(using=other),
        pytest.raises(
            TransactionRequired, match=r"on the database 'other'.* `with transaction.atomic\(using='default'"
        ),
    ):
        tasks.add.enqueue(1)
    assert not OutboxMessage.objects.exists()


def test_only_tasks_have_types_that_begin_as_theirs() -> None:
    with pytest.raises(InvalidMessage, match="begins with 'task:'"):
        publish("task:tests.support.app.tasks.add", {})
    with pytest.raises(TypeError, match="begins with 'task:'"):
        handler("task:tests.support.app.tasks.add")


def test_a_task_that_is_not_what_its_path_names_is_refused() -> None:
    with pytest.raises(InvalidTask, match="does not have the task by the name of its function, 'of_another_name'"):
        tasks.renamed.enqueue()
    assert not OutboxMessage.objects.exists()


def test_what_is_not_supported_is_refused() -> None:
    backend = default_task_backend
    assert (backend.supports_defer, backend.supports_async_task) == (True, True)
    assert (backend.supports_get_result, backend.supports_priority) == (True, False)
    with pytest.raises(InvalidTask, match="does not support setting priority"):
        tasks.add.using(priority=1)
    with pytest.raises(InvalidTask, match="Queue 'unknown' is not valid"):
        tasks.add.using(queue_name="unknown")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"TOPICS": {}}, "E014.*unknown key, 'TOPICS'"),
        ({"MODULES": "shop.jobs"}, "E014.*must be a list of modules"),
        ({"MAX_RETRY": -1}, "E014.*must be a whole number from 0 to 32767, or None"),
        ({"MAX_RETRY": True}, "E014.*must be a whole number"),
    ],
)
def test_options_are_checked(settings: Any, options: dict[str, Any], message: str) -> None:
    settings.TASKS = {"default": {"BACKEND": "django_outbox.tasks.OutboxBackend", "OPTIONS": options}}
    (found,) = default_task_backend.check()
    assert re.search(message, f"{found.id} {found.msg}")
