"""The base of the commands that run relays and consumers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from django.core.management.base import CommandParser

from django_outbox.brokers.base import Broker
from django_outbox.conf import settings
from django_outbox.handlers.registry import GroupHandlers
from django_outbox.management import monitoring
from django_outbox.management.base import OutboxCommand, logging_to
from django_outbox.management.reload import CodeWatch, restart
from django_outbox.worker.database_errors import UNAVAILABLE
from django_outbox.worker.heartbeat import beating
from django_outbox.worker.loop import calm_collector, run_through_faults
from django_outbox.worker.state import WorkerState
from django_outbox.worker.stop import Stop, stop_on_signals


class WorkerCommand(OutboxCommand):
    """A command that runs until a signal stops it."""

    prepares_statements = True
    logger: logging.Logger
    title = "Worker"
    trial = "--help"
    """An option with which the command only loads the project's code, for ``--reload``."""

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--drain", action="store_true", help="Stop when no work is due, instead of waiting for more."
        )
        parser.add_argument(
            "--reload",
            action="store_true",
            help="Restart when the project's code changes, after the current batch. For development.",
        )
        monitoring.add_arguments(parser)

    _unchecked: Callable[[], Any] | None = None

    def check(self, *args: Any, **options: Any) -> Any:
        """Some of Django's checks query a MySQL server: if it is down, they run once it is back."""
        try:
            super().check(*args, **options)
        except UNAVAILABLE:
            self._unchecked = partial(super().check, *args, **options)

    def _require_database(self, using: str) -> None:
        if self._unchecked is not None:
            self._unchecked()
        self.require_tables(using)

    @contextmanager
    def working(
        self,
        broker: Broker,
        worker_state: WorkerState,
        options: Mapping[str, Any],
        *,
        using: str,
        handlers: GroupHandlers | None = None,
    ) -> Iterator[Stop]:
        """Set up logging, monitoring, signals and the heartbeat around a worker, as the command's options say.

        Waits for the database first; with ``--drain`` at most ``PUBLISH_TIMEOUT``. With ``--reload`` it does not return
        if the code has changed, but restarts. ``handlers``: those of a consumer.
        """
        drain = options["drain"]
        # Django prints stderr in red on a terminal, but a log is not an error.
        style, self.stderr.style_func = self.stderr.style_func, None
        try:
            with logging_to(self.stderr, options["verbosity"]):
                with (
                    monitoring.monitored(worker_state, options, using=using, handlers=handlers),
                    stop_on_signals(self.logger, worker_state.set_stopping) as stop,
                ):
                    run_through_faults(
                        stop,
                        lambda: self._require_database(using),
                        log=self.logger,
                        using=using,
                        patience=settings.publish_timeout if drain else None,
                        on_fault=worker_state.record_fault,
                    )
                    with beating(worker_state, using=using, has_row=not drain):
                        if getattr(self, "_called_from_command_line", False):  # not in the process of the tests
                            calm_collector()
                        watch = CodeWatch(stop, self.logger, self.trial) if options["reload"] else None
                        broker.interrupted = lambda: stop.requested
                        yield stop
                self.logger.info("%s stopped.", self.title, extra={"action": "ended"})
                if watch is not None and watch.changed:
                    restart()
        finally:
            self.stderr.style_func = style
