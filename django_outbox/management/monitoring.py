"""The monitoring options of workers: metrics, health probes, a heartbeat file and systemd."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_outbox.handlers.registry import GroupHandlers
from django_outbox.management.option_types import number
from django_outbox.observability.backlog import Backlog
from django_outbox.observability.health import (
    Probe,
    default_limit,
    heartbeat_file,
    liveness,
    notifying_systemd,
    outage_limit,
    readiness,
    watchdog_seconds,
)
from django_outbox.observability.instrumentation import observed_by
from django_outbox.observability.metrics import Metrics
from django_outbox.observability.server import Page, Response, plain, serving
from django_outbox.operations.counts import unfinished
from django_outbox.worker.state import WorkerState

log = logging.getLogger(__name__)

MOST_PORT = 65535
NO_CLIENT = (
    "No metrics: prometheus-client is not installed. Run: pip install 'django-kafka-outbox[metrics]'. /healthz and "
    "/readyz are available."
)


def add_arguments(parser: CommandParser) -> None:
    """Add the options to a command."""
    group = parser.add_argument_group("monitoring")
    group.add_argument(
        "--metrics-port",
        type=number(0, most=MOST_PORT),
        metavar="N",
        help="Serve /metrics (Prometheus, needs the extra 'metrics'), /healthz and /readyz on this port; 0 picks a free "
        "port. Each worker needs its own port.",
    )
    group.add_argument(
        "--metrics-addr",
        default="127.0.0.1",
        metavar="A",
        help="Address to listen on (default: 127.0.0.1, this machine only; 0.0.0.0: all). Everyone who can reach it can "
        "read topics, event types and counts.",
    )
    group.add_argument(
        "--heartbeat-file",
        type=Path,
        metavar="PATH",
        help="Touch this file on every loop iteration and remove it at the end. If it is old or missing, the worker hangs or has died.",
    )
    group.add_argument(
        "--health-timeout",
        type=number(1, float),
        metavar="S",
        help="Seconds without a loop iteration, as in a slow handler, after which /healthz returns 503 (default: 300, or "
        "HANDLER_TIMEOUT + 30). With 90 or more, an outage of broker or database does not count.",
    )


@contextmanager
def monitored(
    worker_state: WorkerState, options: Mapping[str, Any], *, using: str, handlers: GroupHandlers | None = None
) -> Iterator[None]:
    """Monitor a worker as its options say; ``handlers``: those of a consumer.

    Raises:
        CommandError: the port cannot be opened, or the file cannot be written.
    """
    with ExitStack() as stack:
        path: Path | None = options.get("heartbeat_file")
        if path is not None:
            try:
                worker_state.on_progress(stack.enter_context(heartbeat_file(path)))
            except OSError as error:
                raise CommandError(f"The heartbeat file {path} cannot be written: {error.strerror}.") from error
        poll_interval = worker_state.poll_interval
        _warn_if_too_short("WatchdogSec= of the unit", watchdog_seconds(), outage_limit() + poll_interval)
        stack.enter_context(notifying_systemd(worker_state))
        if options.get("metrics_port") is not None:
            _warn_if_too_short("--health-timeout", options["health_timeout"], outage_limit())
            limit = (options["health_timeout"] or default_limit()) + poll_interval
            pages: dict[str, Page] = {
                "/metrics": _metrics(stack, worker_state, using, handlers),
                "/healthz": lambda accept: _respond(liveness(worker_state, limit)),
                "/readyz": lambda accept: _respond(readiness(worker_state)),
            }
            _serve(stack, options["metrics_addr"], options["metrics_port"], pages)
        yield


def _warn_if_too_short(name: str, seconds: float | None, least: float) -> None:
    if seconds is not None and seconds < least:
        log.warning(
            "%s is %g s, which would report a worker waiting out an outage as hung. Use %g s or more.",
            name,
            seconds,
            least,
            extra={"action": "watching"},
        )


def _metrics(stack: ExitStack, worker_state: WorkerState, using: str, handlers: GroupHandlers | None) -> Page:
    """The page with the metrics, which count from now on."""
    if find_spec("prometheus_client") is None:
        log.warning(NO_CLIENT, extra={"action": "metrics"})
        return lambda accept: plain(501, NO_CLIENT)
    from django_outbox.observability.prometheus import exposition, registry_of

    metrics = Metrics(known_types=None if handlers is None else handlers.types)
    if handlers is not None:
        handlers.replace_each(metrics.timed)
    stack.enter_context(observed_by(metrics))
    registry = registry_of(metrics, Backlog(using, unfinished), worker_state)
    return lambda accept: Response(200, *exposition(registry, accept))


def _serve(stack: ExitStack, address: str, port: int, pages: Mapping[str, Page]) -> None:
    try:
        port = stack.enter_context(serving(address, port, pages))
    except (OSError, UnicodeError) as error:
        why = (error.strerror or error) if isinstance(error, OSError) else "not a valid host name"
        raise CommandError(
            f"The metrics port {port} on {address} cannot be opened ({why}). Give each worker its own --metrics-port (0 "
            f"picks a free one), and use an address of this machine as --metrics-addr."
        ) from error
    where = f"[{address}]" if ":" in address else address
    log.info("Serving %s on http://%s:%d.", ", ".join(pages), where, port, extra={"action": "serving", "port": port})


def _respond(probe: Probe) -> Response:
    return plain(200 if probe.ok else 503, probe.text)
