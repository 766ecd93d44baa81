"""How PostgreSQL runs the relay's statements: ``EXPLAIN (ANALYZE, BUFFERS)`` of each, and nothing is changed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import connection, transaction

from django_outbox.conf import settings
from django_outbox.models import OutboxMessage
from django_outbox.relay.claims import PostgresqlClaims
from django_outbox.state import ordering
from django_outbox.state import outbox as state
from django_outbox.state.dialects.postgresql import PostgreSQL
from django_outbox.state.dialects.results import Published

IDLE_POLLS = 200

Statement = tuple[str, Sequence[Any]]


def explain() -> str:
    """The plans of claim, order, mark and idle poll, as they run now."""
    parts = []
    with transaction.atomic():
        with _recorded() as claim:
            claims = PostgresqlClaims(PostgreSQL("default"), time.monotonic)
            batch, pending_before = claims.claim(settings.relay_batch_size, [])
        with _recorded() as order:
            ordering.unsent_before(sorted(batch, key=lambda message: message.id), pending_before, using="default")
        with _recorded() as mark:
            state.mark_published([Published(message.id, message.attempt, 0, 0) for message in batch], using="default")
        transaction.set_rollback(True)
    with _recorded() as idle_poll:
        OutboxMessage.objects.due().exists()
    with transaction.atomic():
        for name, statements in {"claim": claim, "order": order, "mark": mark}.items():
            parts += [_part(name, statement) for statement in statements]
        transaction.set_rollback(True)
    parts += [_part("idle poll", statement) for statement in idle_poll]
    return "\n".join(parts)


def idle_poll_ms() -> list[float]:
    """Milliseconds that the database needs to find that nothing is due, planning included, many times."""
    with _recorded() as statements:
        OutboxMessage.objects.due().exists()
    return [_milliseconds(*statements[0]) for _ in range(IDLE_POLLS)]


@contextmanager
def _recorded() -> Iterator[list[Statement]]:
    """The statements that the block sends."""
    found: list[Statement] = []

    def note(execute: Any, sql: str, params: Sequence[Any], many: bool, context: Any) -> Any:
        found.append((sql, params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        yield found


def _part(name: str, statement: Statement) -> str:
    sql, parameters = statement
    with connection.cursor() as cursor:
        if "set_config" in sql:  # for those that follow
            cursor.execute(sql, parameters)
            return f"{name}\n{'-' * len(name)}\n{sql}\n"
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS) {sql}", parameters)
        plan = [line for (line,) in cursor.fetchall()]
    return "\n".join([name, "-" * len(name), *(line if len(line) <= 200 else f"{line[:200]} ..." for line in plan), ""])


def _milliseconds(statement: str, parameters: Sequence[Any]) -> float:
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
        (found,) = cursor.fetchone()
    plan = (json.loads(found) if isinstance(found, str) else found)[0]
    return float(plan["Planning Time"] + plan["Execution Time"])
