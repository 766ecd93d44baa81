"""How many lanes a consumer has, and whether its database serves so many."""

from __future__ import annotations

from collections.abc import Callable

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from django_outbox.consumer.breaker import Breaker
from django_outbox.consumer.engine import Engine
from django_outbox.consumer.inbox.inbox import Inbox
from django_outbox.consumer.lanes import Lane, Lanes
from django_outbox.consumer.outbox import OutboxSource
from django_outbox.handlers.registry import GroupHandlers
from django_outbox.worker.prepared_statements import PreparedStatements
from django_outbox.worker.state import WorkerState
from django_outbox.worker.transactions import OutageCounts

OTHER_CONNECTIONS = 2
"""Of a consumer with threads, besides theirs: its own and that of the heartbeat."""


def require_concurrency(concurrency: int, using: str) -> None:
    """Check that a database serves so many lanes.

    Raises:
        ImproperlyConfigured: with one sentence that says what to do.
    """
    connection = connections[using]
    if concurrency > 1 and connection.vendor == "sqlite":
        raise ImproperlyConfigured(
            f"SQLite has one writer at a time, so CONCURRENCY must be 1 for the database {using!r}, not {concurrency}."
        )
    pool = connection.settings_dict["OPTIONS"].get("pool")
    if not pool or concurrency == 1:
        return
    options = pool if isinstance(pool, dict) else {}
    size = options.get("max_size") or options.get("min_size", 4)  # psycopg_pool's defaults
    if size < concurrency + OTHER_CONNECTIONS:
        raise ImproperlyConfigured(
            f"CONCURRENCY {concurrency} needs {concurrency + OTHER_CONNECTIONS} connections, but the pool of the "
            f"database {using!r} has {size}: raise its max_size in OPTIONS."
        )


def read_ahead(batch_size: int, concurrency: int) -> int:
    """Records that a consumer has in hand at most, besides those that wait for others of their keys."""
    return batch_size if concurrency == 1 else max(20 * batch_size, 64 * concurrency)


def make_lanes(
    concurrency: int,
    outbox: OutboxSource,
    inbox: Inbox,
    prepared: PreparedStatements,
    breaker: Breaker,
    *,
    using: str,
    handlers: GroupHandlers,
    batch_size: int,
    worker_state: WorkerState,
    clock: Callable[[], float],
) -> Lanes:
    """The lanes of a consumer.

    Args:
        prepared: of the consumer's own connection, which a single lane uses, too.
        batch_size: records that a single lane has in hand; see ``read_ahead``.
    """
    outages = OutageCounts()  # of all lanes, as another one may handle a message next
    lanes = []
    for number in range(1, concurrency + 1):
        engine = Engine(using, handlers.group, clock, outages=outages, breaker=breaker, is_lane=concurrency > 1)
        own = prepared if concurrency == 1 else PreparedStatements(using, clock)
        lanes.append(Lane(number, engine, outbox, inbox.with_engine(engine), own))
    return Lanes(
        lanes,
        outbox,
        inbox,
        handlers=handlers,
        worker_state=worker_state,
        read_ahead=read_ahead(batch_size, concurrency),
        clock=clock,
    )
