"""The handlers of the consumer that is measured: each inserts one row, or waits as for another service."""

from __future__ import annotations

import asyncio
import os
import time

from django.db import connection

from benchmarks.models import Effect
from django_outbox import Event, handler

WAIT_SECONDS = 0.02
INSERT = "INSERT INTO benchmarks_effect (event_id, handled_at) VALUES (%s, %s)"


@handler("bench.sql")
def insert_by_sql(event: Event) -> None:
    """Insert by one statement, as the raw loop does."""
    with connection.cursor() as cursor:
        cursor.execute(INSERT, (event.id, time.monotonic()))


@handler("bench.orm")
def insert_by_orm(event: Event) -> None:
    """Insert as most handlers do."""
    Effect.objects.create(event_id=event.id, handled_at=time.monotonic())


@handler("bench.wait")
def wait(event: Event) -> None:
    """Wait as long as a fast service takes to answer."""
    time.sleep(WAIT_SECONDS)


@handler("bench.async")
async def wait_async(event: Event) -> None:
    """Wait as long, without keeping the thread."""
    await asyncio.sleep(WAIT_SECONDS)


def insert_together(events: list[Event]) -> None:
    """Insert the rows of a list by one statement."""
    now = time.monotonic()
    Effect.objects.bulk_create(Effect(event_id=event.id, handled_at=now) for event in events)


if batch := int(os.environ.get("BENCH_BATCH", "0")):  # otherwise other handlers would get longer polls from it
    handler("bench.batch", batch=batch)(insert_together)
