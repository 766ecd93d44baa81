"""Runs tasks: each is a handler of its message."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any

from django.db import transaction
from django.tasks import TaskContext, TaskResult, TaskResultStatus
from django.tasks.exceptions import TaskResultDoesNotExist
from django.tasks.signals import task_finished, task_started
from django.utils import timezone
from django.utils.json import normalize_json

from django_outbox.brokers.limits import largest_payload
from django_outbox.conf import TASK_PREFIX, settings
from django_outbox.events.event import Event
from django_outbox.exceptions import Reject, TaskExited
from django_outbox.models import OutboxMessage, TaskRun
from django_outbox.models.fields import DatabaseNow
from django_outbox.models.validation import payload_and_json
from django_outbox.state.failures import worker_name
from django_outbox.tasks.results import failures_of, result_of, set_result, stored_result, task_of
from django_outbox.worker.transactions import handler_database

log = logging.getLogger("django_outbox.consumer")


@cache  # the registry replaces a handler by itself, not by an equal one
def handler_of(path: str) -> Callable[[Event], None]:
    """Return the handler that runs a task; operators see the name of the task's function."""

    def run(event: Event) -> None:
        _run(event)

    run.__module__, _, run.__qualname__ = path.rpartition(".")
    return run


def _run(event: Event) -> None:
    """Run a task in the transaction of its message, and store what it returned there.

    Raises:
        Reject: what it returned cannot be stored as JSON.
        TaskExited: it called ``sys.exit()``.
        Exception: of the task, or its function, backend or queue is gone.
    """
    if event.topic == settings.dead_letter_topic:
        return  # a copy
    using = handler_database()
    task = task_of(event.type, event.payload)
    message_id = OutboxMessage.objects.using(using).values_list("id", flat=True).get(event_id=str(event.id))
    failures = failures_of(message_id, using=using) if event.attempt > 1 else ()
    result = result_of(task, event.payload, str(event.id), event.time, TaskResultStatus.RUNNING, failures)
    began, now, worker = time.monotonic(), timezone.now(), worker_name()
    set_result(
        result,
        started_at=result.started_at or now,
        last_attempted_at=now,
        worker_ids=[*result.worker_ids, worker],
    )
    sender = type(task.get_backend())
    task_started.send(sender, task_result=result)
    value = _call(result, using)
    TaskRun(
        message_id=message_id,
        # By the database's clock, as the times of messages.
        started_at=DatabaseNow() - timedelta(seconds=time.monotonic() - began),
        worker=worker,
        return_value=value,
    ).save(using=using)

    def finish() -> None:
        set_result(result, status=TaskResultStatus.SUCCESSFUL, finished_at=timezone.now(), _return_value=value)
        task_finished.send(sender, task_result=result)

    transaction.on_commit(finish, using=using)


def _call(result: TaskResult[..., Any], using: str) -> Any:
    """Call the function of a task and return its value, as JSON returns it."""
    context: list[Any] = [TaskContext(task_result=result)] if result.task.takes_context else []
    try:
        value = result.task.call(*context, *result.args, **result.kwargs)
    except SystemExit as error:
        raise TaskExited(f"The task called sys.exit({error.code!r}).").with_traceback(error.__traceback__) from None
    try:
        return payload_and_json(normalize_json(value), using=using, limit=largest_payload())[0]
    except (TypeError, ValueError, RecursionError) as error:  # also InvalidMessage
        raise Reject(f"What the task returned cannot be stored: {error}") from error


def finish_dead(sender: type[Any], event_id: str, event_type: str, topic: str, using: str, **about: Any) -> None:
    """Send ``task_finished`` for a task that is dead; a receiver of ``message_dead``."""
    if sender is not OutboxMessage or not event_type.startswith(TASK_PREFIX) or topic == settings.dead_letter_topic:
        return
    try:
        result = stored_result(event_id, using=using)
    except TaskResultDoesNotExist as error:
        log.warning("task_finished is not sent: %s", error, extra={"action": "dead", "event_id": event_id})
        return
    task_finished.send(type(result.task.get_backend()), task_result=result)
