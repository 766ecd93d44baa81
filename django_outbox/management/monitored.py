"""The options by which a worker is watched, and what they start: metrics, probes and a heartbeat file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_outbox.handlers.registry import GroupHandlers
from django_outbox.observability.backlog import Backlog
from django_outbox.observability.health import Health, Verdict, default_limit, outage_limit
from django_outbox.observability.heartbeat_file import heartbeat_file
from django_outbox.observability.instrumentation import observed_by
from django_outbox.observability.metrics import Metrics
from django_outbox.observability.server import Answer, Page, plain, serving
from django_outbox.observability.systemd import told_to_systemd, watchdog_seconds
from django_outbox.operations.counts import unfinished
from django_outbox.worker.state import WorkerState

log = logging.getLogger(__name__)

MOST_PORT = 65535
NO_CLIENT = (
    "There are no metrics, as prometheus-client is not installed: pip install 'django-kafka-outbox[metrics]'. "
    "/healthz and /readyz are there all the same."
)


def add_arguments(parser: CommandParser, number: Callable[..., Callable[[str], Any]]) -> None:
    """Add the options to a command; ``number`` makes types of numbers within limits."""
    group = parser.add_argument_group("monitoring")
    group.add_argument(
        "--metrics-port",
        type=number(0, most=MOST_PORT),
        metavar="N",
        help="Serve /metrics (for Prometheus; extra 'metrics'), /healthz and /readyz on this port; 0 takes a free one. "
        "Each worker needs a port of its own.",
    )
    group.add_argument(
        "--metrics-addr",
        default="127.0.0.1",
        metavar="A",
        help="Address to serve these on (default: 127.0.0.1, this machine only; 0.0.0.0 for all). Whoever reaches it "
        "reads topics, event types and counts.",
    )
    group.add_argument(
        "--heartbeat-file",
        type=Path,
        metavar="PATH",
        help="Touch this file as the loop goes on, and remove it at the end: old or missing, the worker hangs or is gone.",
    )
    group.add_argument(
        "--health-timeout",
        type=number(1, float),
        metavar="S",
        help="Seconds that the loop may stand still, as in a handler, before /healthz says 503 (default: 300, or 30 more "
        "than HANDLER_TIMEOUT). An outage of broker or database is no standstill, if this is 90 or more.",
    )


@contextmanager
def monitored(
    worker_state: WorkerState,
    options: Mapping[str, Any],
    *,
    using: str,
    rest: float = 0.0,
    handlers: GroupHandlers | None = None,
) -> Iterator[None]:
    """Let a worker be watched as its options say.

    Args:
        worker_state: what its loop says of itself.
        options: those of the command.
        using: alias of the database.
        rest: seconds that the loop waits of its own will when nothing is to be done.
        handlers: of a consumer; None for a relay.

    Raises:
        CommandError: the port or the file cannot be had.
    """
    with ExitStack() as stack:
        path: Path | None = options.get("heartbeat_file")
        if path is not None:
            try:
                worker_state.on_progress(stack.enter_context(heartbeat_file(path)).touch)
            except OSError as error:
                raise CommandError(f"The heartbeat file {path} cannot be written: {error.strerror}.") from error
        _warn_if_too_short("WatchdogSec= of the unit", watchdog_seconds(), outage_limit() + rest)
        stack.enter_context(told_to_systemd(worker_state))
        if options.get("metrics_port") is not None:
            _warn_if_too_short("--health-timeout", options["health_timeout"], outage_limit())
            health = Health(worker_state, limit=options["health_timeout"] or default_limit(), rest=rest)
            pages: dict[str, Page] = {
                "/metrics": _metrics(stack, worker_state, using, handlers),
                "/healthz": lambda accept: _probe(health.liveness()),
                "/readyz": lambda accept: _probe(health.readiness()),
            }
            _serve(stack, options["metrics_addr"], options["metrics_port"], pages)
        yield


def _warn_if_too_short(name: str, seconds: float | None, least: float) -> None:
    if seconds is not None and seconds < least:
        log.warning(
            "%s is %g s, which takes a worker for hung that waits for a broker or a database that is away. Make it %g s "
            "or more.",
            name,
            seconds,
            least,
            extra={"action": "watching"},
        )


def _metrics(stack: ExitStack, worker_state: WorkerState, using: str, handlers: GroupHandlers | None) -> Page:
    """The page with the metrics, which are counted from now on."""
    if find_spec("prometheus_client") is None:
        log.warning(NO_CLIENT, extra={"action": "metrics"})
        return lambda accept: plain(501, NO_CLIENT)
    from django_outbox.observability.prometheus import exposition, registry_of

    metrics = Metrics(known_types=None if handlers is None else handlers.types)
    if handlers is not None:
        handlers.replace_each(metrics.timed)
    stack.enter_context(observed_by(metrics))
    answer = exposition(registry_of(metrics, Backlog(using, unfinished), worker_state))
    return lambda accept: Answer(200, *answer(accept))


def _serve(stack: ExitStack, address: str, port: int, pages: Mapping[str, Page]) -> None:
    try:
        port = stack.enter_context(serving(address, port, pages))
    except (OSError, UnicodeError) as error:
        why = (error.strerror or error) if isinstance(error, OSError) else "no host can have this name"
        raise CommandError(
            f"The metrics port {port} on {address} cannot be opened ({why}). Is another worker using "
            f"it? Give each worker a --metrics-port of its own (0 takes a free one), and an address of this machine as "
            f"--metrics-addr."
        ) from error
    where = f"[{address}]" if ":" in address else address
    log.info("Serving %s on http://%s:%d.", ", ".join(pages), where, port, extra={"action": "serving", "port": port})


def _probe(verdict: Verdict) -> Answer:
    return plain(200 if verdict.good else 503, verdict.text)
