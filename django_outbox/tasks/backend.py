"""The backend: ``enqueue()`` writes a task to the outbox, in the transaction of its caller."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, cast

from django.apps import apps
from django.core.checks import CheckMessage, Error
from django.db import connections, transaction
from django.tasks import Task, TaskResult
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.exceptions import InvalidTask
from django.tasks.signals import task_enqueued
from django.utils import timezone

from django_outbox.conf import LARGEST_COUNT, settings
from django_outbox.exceptions import TransactionRequired
from django_outbox.models import outbox_database
from django_outbox.publishing import publish_task
from django_outbox.tasks.results import payload_of, ready_result, stored_result

MODULE = "tasks"

P = ParamSpec("P")
R = TypeVar("R")


class OutboxBackend(BaseTaskBackend):
    """Stores tasks as outbox messages of the type ``task:<module>.<function>``, which the consumer runs.

    ``OPTIONS``, all optional:

    ``MODULES``
        modules with tasks, besides the module or package ``tasks`` of each installed app.
    ``MAX_RETRY``
        how many failures make a task dead; by default ``MAX_RETRY`` of ``OUTBOX``.

    ``TASK_TOPICS`` of ``OUTBOX`` has topics by queue; other tasks go to the topic of ``ROUTES`` and ``TOPIC``, like any message.
    There are no priorities, as Kafka returns a topic in its order: give an urgent queue a topic, and a consumer, of its own.
    """

    supports_defer = True
    supports_async_task = True
    supports_get_result = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        self.modules: Sequence[str] = self.options.get("MODULES", ())
        self.max_retry: int | None = self.options.get("MAX_RETRY")

    def enqueue(self, task: Task[P, R], args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskResult[P, R]:
        """Write a task to the outbox. It runs if, and only if, the current transaction commits; without one, in any case.

        Raises:
            TransactionRequired: the current transaction is of another database than the outbox.
            InvalidTask: this backend does not support the task, or the consumer would not find it.
            TypeError, ValueError: JSON cannot represent an argument.
            InvalidMessage: the arguments are too large, or the database cannot store them.
        """
        self.validate_task(task)
        _require_findable(task, self.modules)
        using = outbox_database()
        with _transaction(using):
            message = publish_task(
                task.module_path,
                payload_of(task, args, kwargs),
                topic=settings.task_topics.get(task.queue_name),
                delay=_delay_of(task),
                max_retry=self.max_retry,
                using=using,
            )
            result = cast("TaskResult[P, R]", ready_result(task, message))
        task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> TaskResult[..., Any]:
        """Return what is stored of a task, until ``RETENTION`` deletes its row.

        Raises:
            TaskResultDoesNotExist: there is no such task, or its function is gone.
        """
        return stored_result(result_id, using=outbox_database())

    def check(self, **kwargs: Any) -> list[CheckMessage]:
        return list(_check(self))


def _transaction(using: str) -> AbstractContextManager[object]:
    """The current transaction, which can go on after an invalid argument; outside of one, a new one.

    Raises:
        TransactionRequired: the current transaction is of another database.
    """
    if connections[using].in_atomic_block:
        return nullcontext()
    others = [each.alias for each in connections.all(initialized_only=True) if each.in_atomic_block]
    if others and settings.require_transaction:
        raise TransactionRequired(
            f"enqueue() was called in a transaction on the database {others[0]!r}, and the outbox is in {using!r}, so the task "
            f"would not be saved with it. Call it in `with transaction.atomic(using={using!r}):`, or after the other one."
        )
    return transaction.atomic(using=using)


def _delay_of(task: Task[..., Any]) -> timedelta | None:
    return None if task.run_after is None else max(task.run_after - timezone.now(), timedelta(0))


def _require_findable(task: Task[..., Any], modules: Sequence[str]) -> None:
    """Raise ``InvalidTask`` for a task that no consumer would find: it would wait for ever."""
    module, name = task.func.__module__, task.func.__name__
    found = getattr(sys.modules.get(module), name, None)
    if not isinstance(found, Task) or found.func is not task.func:
        raise InvalidTask(
            f"{module} does not have the task by the name of its function, {name!r}: decorate it with @task."
        )
    packages = [f"{app.name}.{MODULE}" for app in apps.get_app_configs()]
    if module not in modules and not any(_is_found(module, package) for package in packages):
        raise InvalidTask(
            f"No consumer would find {task.module_path}. Move it to the module {MODULE} of an installed app, or add "
            f'{module!r} to OPTIONS["MODULES"] of this backend.'
        )


def _is_found(module: str, package: str) -> bool:
    """True if a consumer that imports this package, and all that is in it, imports the module."""
    while module != package:
        module = module.rpartition(".")[0]
        if not module.startswith(package):
            return False
        if module != package and getattr(sys.modules[module], "__file__", None) is None:
            return False  # a folder without __init__.py
    return True


def _check(backend: OutboxBackend) -> Iterator[CheckMessage]:
    name, options = f"TASKS[{backend.alias!r}]", backend.options
    expected = {
        "MODULES": (_are_names, "a list of modules"),
        "MAX_RETRY": (_is_count, f"a whole number from 0 to {LARGEST_COUNT}, or None"),
    }
    for key, value in options.items():
        if key not in expected:
            yield _error(f'{name}["OPTIONS"] has an unknown key, {key!r}.', f"Valid keys: {', '.join(expected)}.")
        elif not expected[key][0](value):
            yield _error(f'{name}["OPTIONS"]["{key}"] must be {expected[key][1]}, not {value!r}.')


def _error(text: str, hint: str | None = None) -> CheckMessage:
    return Error(text, hint=hint, id="django_outbox.E014")


def _are_names(value: object) -> bool:
    return isinstance(value, list | tuple | set | frozenset) and all(isinstance(each, str) for each in value)


def _is_count(value: object) -> bool:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value is None or (is_number and 0 <= value <= LARGEST_COUNT)  # type: ignore[operator]
