"""Relays and consumers: whether they run, are of one version, and what is in their way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from django_outbox.conf import settings
from django_outbox.handlers.registry import registry
from django_outbox.models import InboxMessage, Worker
from django_outbox.models.fields import database_now
from django_outbox.operations.doctor import waiting
from django_outbox.operations.doctor.finding import Finding, fault, note, warning
from django_outbox.operations.doctor.subject import Subject
from django_outbox.operations.documentation import documentation
from django_outbox.operations.stats import LATE, counted, foreign_messages, inbox_due_since, workers
from django_outbox.operations.status import longest_due
from django_outbox.operations.unread_topics import waits
from django_outbox.state.unhandled import longest_awaited
from django_outbox.worker.heartbeat import own_version


def relays(subject: Subject) -> Iterator[Finding]:
    """No relay is running, or messages wait although one is."""
    staff = _alive(subject, Worker.Kind.RELAY)
    late = longest_due(subject.using)
    if staff:
        yield from _behind("The relay is behind.", "sent", late, staff)
    else:
        yield _nobody(subject, "relay", "sent", late, "outbox_relay")


def consumers(subject: Subject) -> Iterator[Finding]:
    """No consumer is running although there is work, or none of a group that has some; or messages wait although one is."""
    alive = _alive(subject, Worker.Kind.CONSUMER)
    due = _due_in_inbox(subject)
    if alive:
        yield from _main_group(subject, alive)
        yield from _groups(subject, alive, due)
        return
    late = max(filter(None, [longest_awaited(subject.using), *due.values()]), default=None)
    if subject.handlers or _is_late(late):
        yield _nobody(subject, "consumer", "handled", late, "outbox_consume")


def _main_group(subject: Subject, alive: list[Any]) -> Iterator[Finding]:
    """Published messages, which any consumer handles that is not of a group apart."""
    group = settings.consumer_group
    awaited = waits(subject.using, alive).read
    if staff := [worker for worker in alive if not registry.is_inbox_group(worker.group)]:
        yield from _behind("The consumer is behind.", "handled", awaited, staff)
    elif _is_late(awaited) or registry.for_group(group):
        yield _missing(subject, group, awaited)


def _groups(subject: Subject, alive: list[Any], due: Mapping[str, float]) -> Iterator[Finding]:
    """Groups apart, and whatever is due in the inbox."""
    _, *apart = subject.topics
    for group in dict.fromkeys([*apart, *due]):
        late = due.get(group)
        # Consumers of an older version do not tell their group.
        if staff := [worker for worker in alive if worker.group in (group, "")]:
            yield from _behind(f"The inbox of the group {group!r} is behind.", "handled", late, staff)
        elif _is_late(late) or group in apart:
            yield _missing(subject, group, late)


def _missing(subject: Subject, group: str, late: float | None) -> Finding:
    option = "" if group == settings.consumer_group else f" --group {group}"
    summary = f"No consumer of the group {group!r} is running."
    remedy = f"manage.py outbox_consume{option}{subject.database_option}"
    if late is not None and _is_late(late):
        return fault(summary, f"Messages have waited to be handled for {timedelta(seconds=int(late))}.", remedy)
    return warning(summary, "Its handlers do not run; those of other groups do.", remedy)


def _due_in_inbox(subject: Subject) -> dict[str, float]:
    """How long messages have been due in the inbox, by group, in seconds."""
    now = database_now(InboxMessage.objects.using(subject.using))
    since = inbox_due_since(list(subject.topics), subject.using, now)
    return {group: (now - each).total_seconds() for group, each in since.items()}


def _behind(summary: str, done: str, late: float | None, staff: list[Any]) -> Iterator[Finding]:
    """Running workers leave messages waiting. Those in trouble say why themselves."""
    if late is not None and _is_late(late) and not any(worker.trouble for worker in staff):
        cause = waiting.behind(staff)
        waited = f"Messages have waited to be {done} for {timedelta(seconds=int(late))}."
        yield fault(summary, f"{waited} {cause.why}", cause.remedy)


def _is_late(seconds: float | None) -> bool:
    return seconds is not None and seconds > LATE.total_seconds()


def _nobody(subject: Subject, kind: str, done: str, late: float | None, command: str) -> Finding:
    remedy = f"manage.py {command}{subject.database_option}, under systemd or the like, so that it is always there"
    if late is not None and _is_late(late):
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
        if overdue is not None and overdue > LATE:
            find, late = warning, f" One of them has been due for {timedelta(seconds=int(overdue.total_seconds()))}."
        yield find(
            f"{counted(pending, 'pending message')} and {counted(published, 'published message')} have the source "
            f"{source!r}; SOURCE is {settings.source!r}.",
            f"Only a relay and a consumer with the SOURCE {source!r} send and handle them.{late}",
            "If another service shares the table, check that its relay and consumer run. If SOURCE was changed, run both "
            f"with the SOURCE {source!r} until these messages are finished. See {documentation('settings')}.",
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
