"""Whether somebody is there for each kind of work, does it, and what became of those who did."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.utils.translation import gettext, ngettext

from django_outbox.admin.findings import Finding, Link
from django_outbox.observability import text as texts
from django_outbox.operations.doctor import waiting
from django_outbox.operations.stats import LATE

NAMES = 3


class Wait(NamedTuple):
    """Messages that wait for a worker.

    Attributes:
        since: when the work became due; None if nothing waits.
        text: what waits, with a place for the ``age``.
        behind: what to call it if workers run and yet it waits.
        url: where to see the messages; "" for nowhere.
    """

    since: datetime | None
    text: str
    behind: str
    url: str = ""

    def is_late(self, now: datetime) -> bool:
        return self.since is not None and now - self.since > LATE

    def told(self) -> str:
        return self.text % {"age": texts.age(self.since)}


class Duty(NamedTuple):
    """What workers of one kind have to do; of consumers, those of one group.

    Attributes:
        group: None for those of any group but the ``others``: a consumer of the main group may be started with
            another name for it.
        missing: what to say if nobody does it.
        advice: what to do then.
    """

    kind: str
    group: str | None
    missing: str
    advice: str
    waits: Sequence[Wait]
    others: Collection[str] = ()

    def is_of(self, worker: Any) -> bool:
        if worker.kind != self.kind:
            return False
        return worker.group not in self.others if self.group is None else worker.group == self.group


def worker_findings(workers: Sequence[Any], duties: Sequence[Duty], now: datetime) -> list[Finding]:
    """What is wrong with the workers, given what they are there for.

    Args:
        workers: all that are known, with ``is_lost``.
        duties: what has to be done here.
        now: the time.
    """
    alive = [worker for worker in workers if not worker.is_lost]
    found = [finding for duty in duties for finding in _of_duty(duty, alive, now)]
    return [*found, *_troubled(alive), *_lost(workers, alive)]


def _of_duty(duty: Duty, alive: Sequence[Any], now: datetime) -> Iterator[Finding]:
    staff = [worker for worker in alive if duty.is_of(worker)]
    late = [wait for wait in duty.waits if wait.is_late(now)]
    if not staff:
        text = " ".join([*(wait.told() for wait in late), duty.advice])
        yield Finding("bad", duty.missing, text, _links(late))
        return
    # One in trouble says more itself than that it is behind.
    if not any(worker.trouble for worker in staff):
        cause = waiting.behind(staff)
        for wait in late:
            yield Finding("bad", wait.behind, " ".join((wait.told(), cause.why, cause.remedy)), _links([wait]))


def _links(waits: Sequence[Wait]) -> list[Link]:
    return [Link(gettext("Look at them"), wait.url) for wait in waits if wait.url][:1]


def _troubled(alive: Sequence[Any]) -> Iterator[Finding]:
    by_trouble: dict[str, list[Any]] = {}
    for worker in alive:
        if worker.trouble:
            by_trouble.setdefault(worker.trouble, []).append(worker)
    for trouble, workers in by_trouble.items():
        title = ngettext(
            "A worker is in trouble: %(names)s", "%(count)d workers are in trouble: %(names)s", len(workers)
        ) % {"count": len(workers), "names": _names(workers)}
        yield Finding("bad", title, trouble)


def _lost(workers: Sequence[Any], alive: Sequence[Any]) -> Iterator[Finding]:
    lost = [worker for worker in workers if worker.is_lost and not _is_replaced(worker, alive)]
    if lost:
        title = ngettext("A worker is lost: %(names)s", "%(count)d workers are lost: %(names)s", len(lost)) % {
            "count": len(lost),
            "names": _names(lost),
        }
        seen = texts.age(max(worker.last_seen_at for worker in lost))
        text = gettext("Last seen %(age)s ago, without a word of its end: it was killed, hangs, or has no database.")
        yield Finding("warn", title, text % {"age": seen})


def _is_replaced(lost: Any, alive: Sequence[Any]) -> bool:
    """True if another that does the same was started after this one was seen last."""
    return any(
        (worker.kind, worker.group) == (lost.kind, lost.group) and worker.started_at >= lost.last_seen_at
        for worker in alive
    )


def _names(workers: Sequence[Any]) -> str:
    names = [f"{worker.get_kind_display()} {worker.host}:{worker.pid}" for worker in workers]
    return ", ".join([*names[:NAMES], *(["…"] if len(names) > NAMES else [])])
