"""What is stored of tasks: arguments in their message, errors in its failures, and the value that they returned."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.tasks import Task, TaskResult, TaskResultStatus
from django.tasks.base import TaskError
from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist
from django.utils.json import normalize_json
from django.utils.module_loading import import_string

from django_outbox.conf import TASK_PREFIX
from django_outbox.exceptions import OutboxError
from django_outbox.models import MessageFailure, OutboxMessage

Status = OutboxMessage.Status

_NAME = re.compile(r"\w+(\.\w+)*")
_OWN = f"{OutboxError.__module__}."  # Retry and Reject have the text of their reason only
_STATUSES = {Status.CONSUMED: TaskResultStatus.SUCCESSFUL, Status.DEAD: TaskResultStatus.FAILED}


def payload_of(task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The payload of a task's message.

    Raises:
        TypeError, ValueError: JSON cannot represent an argument.
    """
    payload = {
        "args": normalize_json(list(args)),
        "kwargs": normalize_json(dict(kwargs)),
        "backend": task.backend,
        "queue_name": task.queue_name,
    }
    if task.run_after is not None:
        payload["run_after"] = task.run_after.isoformat()
    return payload


def task_of(event_type: str, payload: Mapping[str, Any]) -> Task[..., Any]:
    """The task that a message names, for the queue and time that it was enqueued for.

    Raises:
        ImportError: the function does not exist any more, or is not a task.
        InvalidTask, ImproperlyConfigured: the settings do not have its backend or queue any more.
    """
    path = event_type.removeprefix(TASK_PREFIX)
    task = import_string(path)
    if not isinstance(task, Task):
        raise ImportError(f"{path} is not a task: decorate it with @task.")
    run_after = payload.get("run_after")
    return task.using(
        backend=payload["backend"],
        queue_name=payload["queue_name"],
        run_after=None if run_after is None else datetime.fromisoformat(run_after),
    )


def ready_result(task: Task[..., Any], message: OutboxMessage) -> TaskResult[..., Any]:
    """The result of a task that was enqueued as this message."""
    return result_of(task, message.payload, str(message.event_id), message.created_at)


def result_of(
    task: Task[..., Any],
    payload: Mapping[str, Any],
    id: str,
    enqueued_at: datetime | None,
    status: TaskResultStatus = TaskResultStatus.READY,
    failures: Sequence[MessageFailure] = (),
) -> TaskResult[..., Any]:
    """The result of a task with failures, the oldest first."""
    tried = [each for each in failures if each.stage == MessageFailure.Stage.HANDLE]
    return TaskResult(
        task=task,
        id=id,
        status=status,
        enqueued_at=enqueued_at,
        started_at=tried[0].occurred_at if tried else None,
        finished_at=None,
        last_attempted_at=tried[-1].occurred_at if tried else None,
        args=payload["args"],
        kwargs=payload["kwargs"],
        backend=task.backend,
        errors=[_error_of(each) for each in failures],
        worker_ids=[each.worker for each in tried],
    )


def stored_result(id: object, *, using: str) -> TaskResult[..., Any]:
    """Read a result from the rows of its message.

    Raises:
        TaskResultDoesNotExist: there is no such task, or its function, backend or queue is gone.
    """
    tasks = OutboxMessage.objects.using(using).own().filter(event_type__startswith=TASK_PREFIX)
    message = None
    with suppress(ValueError):  # not a UUID
        message = tasks.filter(event_id=uuid.UUID(str(id))).select_related("task_run").first()
    if message is None:
        raise TaskResultDoesNotExist(id)
    try:
        task = task_of(message.event_type, message.payload)
        status = _STATUSES.get(Status(message.status), TaskResultStatus.READY)
        failures = failures_of(message.id, using=using)
        result = result_of(task, message.payload, str(id), message.created_at, status, failures)
    except (
        ImportError,
        InvalidTask,
        ImproperlyConfigured,
        KeyError,
        TypeError,
    ) as error:  # the last two if it was edited
        raise TaskResultDoesNotExist(f"{id}: {error}") from error
    run = getattr(message, "task_run", None)
    if status is TaskResultStatus.SUCCESSFUL and run is not None:
        set_result(
            result,
            started_at=result.started_at or run.started_at,
            last_attempted_at=run.started_at,
            finished_at=message.consumed_at,
            worker_ids=[*result.worker_ids, run.worker],
            _return_value=run.return_value,
        )
    elif status is not TaskResultStatus.READY:
        set_result(result, finished_at=message.consumed_at or message.updated_at)
    return result


def failures_of(message_id: int, *, using: str) -> list[MessageFailure]:
    """The failures of a message, the oldest first."""
    return list(MessageFailure.objects.using(using).filter(message_id=message_id).order_by("id"))


def set_result(result: TaskResult[..., Any], **values: Any) -> None:
    """Set attributes of a result, which Django keeps from being changed by accident."""
    for name, value in values.items():
        object.__setattr__(result, name, value)


def _error_of(failure: MessageFailure) -> TaskError:
    """The error of a failure. Its fingerprint begins with the name of the class, unless the outbox itself has failed it."""
    name = failure.fingerprint.partition(" in ")[0]
    if not (
        _NAME.fullmatch(name) and (name.startswith(_OWN) or re.match(rf"{re.escape(name)}(:|$)", failure.error, re.M))
    ):
        name = f"{_OWN}{OutboxError.__name__}"
    return TaskError(
        exception_class_path=name if "." in name else f"builtins.{name}",
        traceback=failure.error,
    )
