"""Handlers of the real consumer processes that tests start."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from django_outbox import Event, Reject, handler
from tests.app.models import Effect


def _effect(event: Event) -> None:
    Effect.objects.create(name=f"{event.type} {event.payload}", event_id=event.id)


@handler("test.effect")
def effect(event: Event) -> None:
    _effect(event)


@handler("test.fails")
def fails(event: Event) -> None:
    _effect(event)
    raise ArithmeticError("this never works")


@handler("test.fails_once")
def fails_once(event: Event) -> None:
    _effect(event)
    if event.attempt == 1:
        raise ArithmeticError("not the first time")


@handler("test.rejects")
def rejects(event: Event) -> None:
    raise Reject("nobody wants it")


@handler("test.exits")
def exits(event: Event) -> None:
    _effect(event)
    os._exit(7)


@handler("test.is_killed")
def is_killed(event: Event) -> None:
    _effect(event)
    os.kill(os.getpid(), signal.SIGKILL)


@handler("test.waits")
def waits(event: Event) -> None:
    """Say that it runs by making a file, and wait until that file is removed."""
    _effect(event)
    path = Path(event.payload)
    path.touch()
    deadline = time.monotonic() + 60
    while path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.01)
