"""Relays and consumers: whether they run, are of one version, and what is in their way."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django_outbox.awaited import longest_awaited
from django_outbox.conf import settings
from django_outbox.doctor.finding import Finding, fault, note, warning
from django_outbox.doctor.subject import Subject
from django_outbox.figures import counted, foreign_messages, workers
from django_outbox.handlers import registry
from django_outbox.heartbeat import own_version
from django_outbox.models import Worker
from django_outbox.status import longest_due

PATIENCE = timedelta(seconds=60)


def relays(subject: Subject) -> Iterator[Finding]:
    """No relay is running."""
    if not _alive(subject, Worker.Kind.RELAY):
        yield _nobody(subject, "relay", "sent", longest_due(subject.using), "outbox_relay")


def consumers(subject: Subject) -> Iterator[Finding]:
    """No consumer is running although there are handlers, or none of a group that has some."""
    if not subject.handlers:
        return
    groups = {worker.group for worker in _alive(subject, Worker.Kind.CONSUMER)}
    if not groups:
        yield _nobody(subject, "consumer", "handled", longest_awaited(subject.using), "outbox_consume")
    elif "" not in groups:  # consumers of an older version do not tell theirs
        main = settings.consumer_group
        running = {group if registry.is_inbox_group(group) else main for group in groups}
        for group in subject.topics:
            if group not in running and registry.for_group(group):
                option = "" if group == main else f" --group {group}"
                yield warning(
                    f"No consumer of the group {group!r} is running.",
                    "Its handlers do not run; those of other groups do.",
                    f"manage.py outbox_consume{option}{subject.database_option}",
                )


def _nobody(subject: Subject, kind: str, done: str, late: float | None, command: str) -> Finding:
    remedy = f"manage.py {command}{subject.database_option}, under systemd or the like, so that it is always there"
    if late is not None and late > PATIENCE.total_seconds():
        waits = f"Messages have waited to be {done} for {timedelta(seconds=int(late))}."
        return fault(f"No {kind} is running.", waits, remedy)
    return warning(
        f"No {kind} is running.",
        f"What is published is not {done}. (One that runs with --drain, as by cron, has no heartbeat: then all is well.)",
        remedy,
    )


def troubles(subject: Subject) -> Iterator[Finding]:
    """Workers that vanished, or that have something in their way."""
    for worker in workers(subject.using):
        name = f"{worker.kind} {worker.host}:{worker.pid}"
        if worker.is_lost:
            silent = timedelta(seconds=int((worker.now - worker.last_seen_at).total_seconds()))
            yield warning(
                f"The {name} was last seen {silent} ago, and did not say that it ends.",
                "It was killed or hangs. A row that is left of one that was killed is forgotten after a day.",
                f"See whether process {worker.pid} on {worker.host} is there, and start it again.",
            )
        elif worker.trouble:
            yield fault(f"The {name} is in trouble: {worker.trouble}", "", "")


def sources(subject: Subject) -> Iterator[Finding]:
    """Unfinished messages of another source, which the workers of this project leave alone."""
    for source, pending, published, overdue in foreign_messages(subject.using):
        find, late = note, ""
        if overdue is not None and overdue > PATIENCE:
            find, late = warning, f" One of them has been due for {timedelta(seconds=int(overdue.total_seconds()))}."
        yield find(
            f"{counted(pending, 'pending message')} and {counted(published, 'published message')} have the source "
            f"{source!r}; SOURCE is {settings.source!r}.",
            f"Only a relay and a consumer with the SOURCE {source!r} send and handle them.{late}",
            "If another service shares the table, check that its relay and consumer run. If SOURCE was changed, run both "
            f"with the SOURCE {source!r} until these messages are finished (docs/settings.rst).",
        )


def versions(subject: Subject) -> Iterator[Finding]:
    """Workers of another version than this one, as after half a deployment."""
    own = own_version()
    others = sorted(
        f"{worker.kind} {worker.host}:{worker.pid} ({worker.version})"
        for worker in workers(subject.using)
        if not worker.is_lost and worker.version and own and worker.version != own
    )
    if others:
        yield warning(
            f"{counted(len(others), 'worker')} of another version than {own}, which is installed here: {', '.join(others)}.",
            "What is of an older version does not know what is new in the tables or in the settings.",
            "Restart it with the version that is deployed.",
        )


def _alive(subject: Subject, kind: str) -> list[Any]:
    return [worker for worker in workers(subject.using) if worker.kind == kind and not worker.is_lost]
