"""Handlers of the real consumer processes that tests start."""

from __future__ import annotations

import os
import re
import resource
import signal
import threading
import time
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from django_outbox import Event, Reject, handler, publish
from tests.support.app.models import Effect


def _effect(event: Event) -> None:
    Effect.objects.create(name=f"{event.type} {event.payload}", event_id=event.id)


@handler("test.effect")
def effect(event: Event) -> None:
    _effect(event)


@handler("test.effect", group=os.environ.get("OUTBOX_REPORTS_GROUP", "reports"))
def reported(event: Event) -> None:
    Effect.objects.create(name=f"reported {event.payload}", event_id=event.id)


@handler("test.batch", batch=50)
def batch(events: list[Event]) -> None:
    Effect.objects.bulk_create(Effect(name=f"{event.type} {event.payload}", event_id=event.id) for event in events)


@handler("test.batch_is_killed", batch=50)
def batch_is_killed(events: list[Event]) -> None:
    """Killed by the payload "killer", with its whole batch written."""
    batch(events)
    if any(event.payload == "killer" for event in events):
        os.kill(os.getpid(), signal.SIGKILL)


@handler("test.fails")
def fails(event: Event) -> None:
    _effect(event)
    raise ArithmeticError("this never works")


@handler("test.fails_once")
def fails_once(event: Event) -> None:
    _effect(event)
    if event.attempt == 1:
        raise ArithmeticError("not the first time")


@handler("test.publishes")
def publishes(event: Event) -> None:
    publish("test.effect", event.payload, key=event.key)


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


@handler("test.aborts")
def aborts(event: Event) -> None:
    """As C code does that gets no memory and cannot go on."""
    _effect(event)
    os.abort()


@handler("test.exhausts")
def exhausts(event: Event) -> None:
    """Take memory, bit by bit, until there is no more."""
    _effect(event)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, hard = limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**26, hard))
    try:
        hoard: list[Any] = []
        while True:
            hoard.append(bytes(2**12))
            hoard.append([hoard] * 10)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@handler("test.sleeps")
def sleeps(event: Event) -> None:
    _effect(event)
    threading.Event().wait()


@handler("test.burns")
def burns(event: Event) -> None:
    """Keep the interpreter from all other threads, for longer than anybody lives."""
    _effect(event)
    re.match("(a+)+$", "a" * 64 + "b")


@handler("invoice.paid")
def invoice_paid(event: Event) -> None:
    _effect(event)


@dataclass
class Parcel:
    name: str
    weights: list[Decimal] = field(default_factory=list)


@handler("test.typed")
async def typed(parcel: Parcel, event: Event) -> None:
    await Effect.objects.acreate(name=f"{parcel.name} {sum(parcel.weights)}", event_id=event.id)


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
