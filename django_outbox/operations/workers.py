"""The workers of this service, and why running ones fall behind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, TypeGuard

from django.db.models import Case, Value, When
from django.utils.translation import gettext

from django_outbox.conf import settings
from django_outbox.models import Worker
from django_outbox.models.fields import DatabaseNow
from django_outbox.worker.heartbeat import ALIVE, WORKERS_KEPT

SILENT = timedelta(seconds=25)  # two missed heartbeats
LATE_SECONDS = 60.0
"""Messages that wait longer for a worker are reported."""
MOST_NAMES = 3


def known_workers(using: str) -> list[Any]:
    """Workers seen within a day, each with the database's ``now``.

    ``is_silent``: missed two heartbeats. ``is_lost``: silent for a minute.
    """
    now = DatabaseNow()

    def unseen_for(time: timedelta) -> Case:
        return Case(When(last_seen_at__lt=now - time, then=Value(True)), default=Value(False))

    return list(
        Worker.objects.using(using)
        .filter(source=settings.source, last_seen_at__gte=now - WORKERS_KEPT)
        .annotate(is_lost=unseen_for(ALIVE), is_silent=unseen_for(SILENT), now=now)
        .order_by("kind", "group", "host", "pid")
    )


def is_late(seconds: float | None) -> TypeGuard[float]:
    """True if a message that has waited for so long is worth reporting."""
    return seconds is not None and seconds > LATE_SECONDS


def has_lanes(workers: Iterable[Any]) -> bool:
    """True if what is in progress is worth showing: a consumer has several lanes, or one has been busy for a minute."""
    return any(each.lanes > 1 or is_late(each.busy_seconds) for each in workers if not each.is_lost)


class Cause(NamedTuple):
    """Why messages wait, and what to do."""

    why: str
    remedy: str


def why_behind(workers: Sequence[Any]) -> Cause:
    """Why running workers of one kind leave messages waiting."""
    kind = workers[0].kind
    names = ", ".join(f"{worker.host}:{worker.pid}" for worker in workers[:MOST_NAMES])
    names += "…" if len(workers) > MOST_NAMES else ""
    rate = sum(worker.rate for worker in workers)
    if all(worker.is_silent for worker in workers):
        why = gettext("No heartbeat from %(names)s: the process hangs, was killed, or cannot reach the database.")
        remedy = gettext("Check these processes and restart them.")
    elif rate:
        why = gettext("Running: %(names)s, with %(rate)s messages per second. That is not enough to catch up.")
        remedy = (
            gettext("If this goes on, start another relay, or check how long the broker takes to acknowledge a batch.")
            if kind == Worker.Kind.RELAY
            else gettext(
                "If this goes on, start more consumers, up to one for each partition, raise their --concurrency, or make "
                "handlers faster."
            )
        )
    elif kind == Worker.Kind.RELAY:
        why = gettext("Running: %(names)s, but nothing was sent at the last heartbeat.")
        remedy = gettext(
            "Check the log of the relay. It skips rows that another transaction has locked: look for transactions that "
            "stay open (manage.py outbox_doctor)."
        )
    else:
        why = gettext("Running: %(names)s, but nothing was handled at the last heartbeat.")
        remedy = gettext(
            "Check the log of the consumer: a handler may hang, or the consumer may be waiting for its partitions. "
            'Restart it. OUTBOX["HANDLER_TIMEOUT"] ends handlers that take too long.'
        )
    return Cause(why % {"names": names, "rate": f"{rate:,.1f}"}, remedy)
