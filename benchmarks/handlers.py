"""The handlers of the consumer that is measured: each inserts one row."""

from __future__ import annotations

import time

from django.db import connection

from benchmarks.models import Effect
from django_outbox import Event, handler

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
