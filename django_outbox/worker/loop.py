"""The loop of a worker: runs rounds until it is stopped, and waits out faults of the broker and the database."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable

from django.db import DEFAULT_DB_ALIAS

from django_outbox.exceptions import BrokerUnavailable, in_one_line
from django_outbox.worker.database_errors import drop_broken_connections, is_unavailable
from django_outbox.worker.incident import Incident
from django_outbox.worker.outage_log import OutageLog
from django_outbox.worker.pooling import stop_preparing
from django_outbox.worker.stop import Stop


def calm_collector() -> None:
    """Run the garbage collector less often, and never on objects that exist already.

    With Python's defaults it took a sixth of a relay's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


def run_through_faults(
    stop: Stop,
    step: Callable[[], float | None],
    *,
    log: logging.Logger,
    using: str = DEFAULT_DB_ALIAS,
    patience: float | None = None,
    wait_for_work: Callable[[float], object] | None = None,
    on_fault: Callable[[str, bool], object] = lambda reason, is_broker: None,
    outages: OutageLog | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Call ``step`` until it returns None or ``stop`` is requested, and wait out faults of broker and database.

    Args:
        step: returns the seconds to wait before the next call, or None to end the loop.
        patience: seconds after which a fault that lasts is raised; None waits forever.
        wait_for_work: waits between two calls; None takes ``stop.wait``. Not used after a fault.
        on_fault: called with the reason of each fault, and True for the broker or False for the database.

    Raises:
        BrokerUnavailable, OperationalError, InterfaceError, InternalError: only with ``patience``.
    """
    outages = outages or OutageLog(log, clock)
    broker = Incident(log, "The broker", clock, outages=outages)
    database = Incident(log, "The database", clock)
    try:
        while not stop.requested:
            try:
                wait = step()
                broker.resolve()
                database.resolve()
                outages.log_ended()
                if wait is None:
                    return
                (wait_for_work or stop.wait)(wait)
            except Exception as error:
                if stop_preparing(error, using):
                    continue
                if not isinstance(error, BrokerUnavailable) and not is_unavailable(error):
                    raise
                if _is_requested(stop):  # the stop may have interrupted the step
                    return
                incident = broker if isinstance(error, BrokerUnavailable) else database
                on_fault(f"{incident.subject}: {in_one_line(error)}", incident is broker)
                drop_broken_connections(error)
                delay = incident.report(in_one_line(error))
                if patience is not None and incident.seconds >= patience:
                    raise
                stop.wait(delay)
    finally:
        outages.log_ended(shutdown=True)


def _is_requested(stop: Stop) -> bool:
    return stop.requested  # a function, as mypy would assume that the loop's condition still holds
