"""Relays and consumers: whether they run, keep up, and have the same version."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django_outbox.conf import settings
from django_outbox.handlers.registry import registry
from django_outbox.models import OutboxMessage, Worker
from django_outbox.operations.counts import counted, foreign_messages, inbox_due, longest_due
from django_outbox.operations.doctor.base import Finding, Installation, fault, note, warning
from django_outbox.operations.documentation import documentation
from django_outbox.operations.pausing import known_pauses, resume_command
from django_outbox.operations.topics import awaited
from django_outbox.operations.workers import is_late, known_workers, why_behind
from django_outbox.state.unhandled import longest_unhandled
from django_outbox.worker.heartbeat import own_version


def relays(installation: Installation) -> Iterator[Finding]:
    """No relay is running, or messages wait although one is."""
    alive = _alive(installation, Worker.Kind.RELAY)
    late = longest_due(OutboxMessage, installation.using)
    if alive:
        yield from _behind("The relay is behind.", "sent", late, alive)
    else:
        yield _none_running(installation, "relay", "sent", late)


def pauses(installation: Installation) -> Iterator[Finding]:
    """Event types and handlers that are paused."""
    for pause in known_pauses(installation.using):
        command = resume_command(
            pause.group, event_type=pause.event_type, handler=pause.handler, using=installation.using
        )
        by_breaker = pause.seconds_left is not None
        yield warning(
            f"{pause.subject} is paused in the group {pause.group}, by {pause.by}: {pause.reason}",
            f"Messages that wait until it is resumed: {pause.messages:,}."
            + (" A message is tried from time to time, and resumes it if it succeeds." if by_breaker else ""),
            f"Once the reason is gone: {command}",
        )


def consumers(installation: Installation) -> Iterator[Finding]:
    """No consumer is running for a group that has work, or messages wait although one is."""
    alive = _alive(installation, Worker.Kind.CONSUMER)
    due = inbox_due(installation.using)
    if not alive:
        late = max(filter(None, [longest_unhandled(installation.using), *due.values()]), default=None)
        if installation.handlers or is_late(late):
            yield _none_running(installation, "consumer", "handled", late)
        return
    main, *named = installation.topics
    late, _ = awaited(installation.using, alive)
    # A consumer with a group that no handler names acts for the main group.
    members = [worker for worker in alive if not registry.is_inbox_group(worker.group)]
    has_handlers = bool(registry.for_group(main))
    yield from _group(installation, main, members, has_handlers, late, "The consumer is behind.")
    for group in dict.fromkeys([*named, *due]):
        # Consumers of an older version do not report their group.
        members = [worker for worker in alive if worker.group in (group, "")]
        behind = f"The inbox of the group {group!r} is behind."
        yield from _group(installation, group, members, group in named, due.get(group), behind)


def _group(
    installation: Installation, group: str, members: list[Any], has_handlers: bool, late: float | None, behind: str
) -> Iterator[Finding]:
    if members:
        yield from _behind(behind, "handled", late, members)
    elif is_late(late) or has_handlers:
        option = "" if group == settings.consumer_group else f" --group {shlex.quote(group)}"
        why = "The handlers of this group do not run; those of other groups do."
        remedy = f"manage.py outbox_consume{option}{installation.database_option}"
        yield _not_done(f"No consumer of the group {group!r} is running.", "handled", late, why, remedy)


def _behind(summary: str, done: str, late: float | None, workers: list[Any]) -> Iterator[Finding]:
    """Running workers leave messages waiting. A worker in trouble reports the reason itself."""
    if is_late(late) and not any(worker.trouble for worker in workers):
        cause = why_behind(workers)
        yield fault(summary, f"{_waited(done, late)} {cause.why}", cause.remedy)


def _none_running(installation: Installation, kind: str, done: str, late: float | None) -> Finding:
    command = {"relay": "outbox_relay", "consumer": "outbox_consume"}[kind]
    why = (
        f"Published messages are not {done}. (Workers with --drain, as in a cron job, have no heartbeat: ignore this.)"
    )
    remedy = f"manage.py {command}{installation.database_option}, under systemd or similar, so that it is restarted"
    return _not_done(f"No {kind} is running.", done, late, why, remedy)


def _not_done(summary: str, done: str, late: float | None, why: str, remedy: str) -> Finding:
    """A fault if messages wait already."""
    return fault(summary, _waited(done, late), remedy) if is_late(late) else warning(summary, why, remedy)


def _waited(done: str, seconds: float) -> str:
    return f"Messages have waited to be {done} for {timedelta(seconds=int(seconds))}."


def troubles(installation: Installation) -> Iterator[Finding]:
    """Workers that are lost or in trouble."""
    for worker in known_workers(installation.using):
        name = f"{worker.kind} {worker.host}:{worker.pid}"
        if worker.is_lost:
            silent = timedelta(seconds=int((worker.now - worker.last_seen_at).total_seconds()))
            yield warning(
                f"The {name} was last seen {silent} ago and did not shut down cleanly.",
                "It was killed or hangs. The row of a killed worker is removed after a day.",
                f"Check whether process {worker.pid} on {worker.host} is running, and restart it.",
            )
        elif worker.trouble:
            yield fault(f"The {name} is in trouble: {worker.trouble}", "", "")


def sources(installation: Installation) -> Iterator[Finding]:
    """Unfinished messages of other sources, which the workers of this project ignore."""
    for source, pending, published, overdue in foreign_messages(installation.using):
        find, late = note, ""
        if is_late(overdue):
            find, late = warning, f" One has been due for {timedelta(seconds=int(overdue))}."
        yield find(
            f"{counted(pending, 'pending message')} and {counted(published, 'published message')} have the source "
            f"{source!r}; SOURCE is {settings.source!r}.",
            f"Only a relay and a consumer with the SOURCE {source!r} send and handle them.{late}",
            "If another service shares the table, check that its relay and consumer run. If SOURCE was changed, run both "
            f"with the SOURCE {source!r} until these messages are finished. See {documentation('settings')}.",
        )


def versions(installation: Installation) -> Iterator[Finding]:
    """Workers of another version, as after half a deployment."""
    own = own_version()
    others = sorted(
        f"{worker.kind} {worker.host}:{worker.pid} ({worker.version})"
        for worker in known_workers(installation.using)
        if not worker.is_lost and worker.version and own and worker.version != own
    )
    if others:
        yield warning(
            f"{counted(len(others), 'worker')} of another version than {own}, which is installed here: "
            f"{', '.join(others)}.",
            "An older version does not know new columns and settings.",
            "Restart these workers with the deployed version.",
        )


def _alive(installation: Installation, kind: str) -> list[Any]:
    return [worker for worker in known_workers(installation.using) if worker.kind == kind and not worker.is_lost]
