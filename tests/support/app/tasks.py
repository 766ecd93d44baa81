"""Tasks of Django's Tasks framework. It needs Django 6.0, and is imported by tests of tasks only."""

from __future__ import annotations

import sys
from typing import Any

from django.tasks import TaskContext, task

from django_outbox import Reject, publish
from tests.support.app.models import Effect


@task
def add(first: int, second: int = 0) -> int:
    Effect.objects.create(name=f"add {first} {second}")
    return first + second


@task
async def add_soon(first: int, second: int = 0) -> int:
    await Effect.objects.acreate(name=f"add {first} {second}")
    return first + second


@task
def fails() -> None:
    Effect.objects.create(name="fails")
    raise ArithmeticError("boom")


fails_left: list[Exception] = []
"""What ``fails_at_first`` raises, one at each try."""


@task(takes_context=True)
def fails_at_first(context: TaskContext) -> dict[str, Any]:
    if fails_left:
        raise fails_left.pop()
    result = context.task_result
    return {
        "attempt": context.attempt,
        "status": result.status,
        "id": result.id,
        "errors": [error.exception_class_path for error in result.errors],
    }


@task
def rejects() -> None:
    raise Reject("never")


@task
def exits() -> None:
    sys.exit("no disk")


@task
def returns_an_object() -> Any:
    return object()


@task
def returns_nul() -> str:
    return "\0"


@task
def publishes() -> None:
    publish("order.created", 1)


def of_another_name() -> None:
    """Its task has another name than the function."""


renamed = task(of_another_name)
