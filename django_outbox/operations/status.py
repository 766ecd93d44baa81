"""What is in outbox and inbox: counts, ages, what comes next. Nothing here walks what has been consumed.

Ages are in seconds, by the database's clock. ``oldest_..._seconds`` count from the writing of a message (in the
inbox: from its arrival); ``longest_due_seconds`` and ``longest_awaited_seconds`` say how long something has been
late: since it was due to be sent, and since it was sent to a handler here. A message that was published with a delay,
or that waits for its retry, is not late; what no handler here wants is not awaited.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice
from typing import Any, NamedTuple

from django.db import connections
from django.db.models import Count, F, Min, TextField, Value
from django.db.models.functions import Cast
from django.utils import timezone

from django_outbox.conf import settings
from django_outbox.exceptions import HandlersNotImportable
from django_outbox.handlers.registry import GroupHandlers, registry
from django_outbox.models import Activity, InboxMessage, OutboxMessage, Worker, oldest_first
from django_outbox.models.fields import DatabaseNow
from django_outbox.operations import unread_topics as unread
from django_outbox.operations.lag import PATIENCE_SECONDS, Answer, lag_of_groups
from django_outbox.operations.stats import LATE, Throughput, rows_estimate, throughput, workers
from django_outbox.state.unhandled import longest_awaited

Model = type[OutboxMessage] | type[InboxMessage]

EXACT_CONSUMED = 500_000
"""So many consumed messages are counted; of more it is said about how many they are."""
RETRIES = 5
MOST_TOPICS = 1000
LOOKED_AT = 10_000


class TopicCount(NamedTuple):
    """Messages of one topic in one state, and the oldest of them."""

    topic: str
    status: str
    messages: int
    oldest_id: int


def outbox_status(using: str) -> dict[str, Any]:
    """Counts by state and ages of the outbox."""
    return _status(OutboxMessage, ("pending", "published", "dead"), _unfinished(OutboxMessage, using), using) | {
        "longest_awaited_seconds": longest_awaited(using)
    }


def inbox_status(using: str) -> dict[str, Any]:
    """The same of the inbox."""
    return _status(InboxMessage, ("pending",), _unfinished(InboxMessage, using), using)


def full_status(using: str, *, broker: bool = True, patience: float = PATIENCE_SECONDS) -> dict[str, Any]:
    """All that ``outbox_status`` shows.

    Args:
        using: alias of the database.
        broker: False leaves out what the broker has to be asked.
        patience: seconds to wait for the broker.
    """
    unfinished = _unfinished(OutboxMessage, using)
    seen = workers(using)
    outbox = _status(OutboxMessage, ("pending", "published", "dead"), unfinished, using)
    outbox["longest_awaited_seconds"] = longest_awaited(using)
    return {
        "outbox": outbox,
        "inbox": inbox_status(using),
        "topics": _topics(unfinished, using),
        "unread_topics": _unread_topics(outbox["longest_awaited_seconds"], seen, using),
        "retries": [_retry("outbox", row) for row in _next_retries(OutboxMessage, using)]
        + [_retry("inbox", row) for row in _next_retries(InboxMessage, using)],
        "rates": _rates(seen, using),
        "workers": [_worker(worker) for worker in seen],
        "lag": lag_by_group(patience) if broker else None,
    }


def _own(model: Model, using: str) -> Any:
    """Messages of this service; the inbox has no others."""
    if model is OutboxMessage:
        return OutboxMessage.objects.using(using).own()
    return model.objects.using(using)


def _unfinished(model: Model, using: str) -> list[TopicCount]:
    """All in one statement, so that nothing is counted twice or left out while it moves.

    In two halves, each of which PostgreSQL finds in an index that has all it needs: together it would
    read the whole table.
    """
    messages = _own(model, using).order_by()
    counts = _by_topic(messages.filter(status__in=["pending", "dead"]), F("status"))
    if model is OutboxMessage:
        counts = counts.union(_by_topic(messages.filter(status="published"), Value("published")), all=True)
    return [TopicCount(*row) for row in counts]


def _by_topic(messages: Any, state: Any) -> Any:
    return (
        messages.annotate(state=Cast(state, TextField()))
        .values("topic", "state")
        .annotate(count=Count("id"), first=Min("id"))
        .values_list("topic", "state", "count", "first")
    )


def _status(model: Model, with_age: tuple[str, ...], unfinished: list[TopicCount], using: str) -> dict[str, Any]:
    counts: dict[str, int] = defaultdict(int)
    oldest: dict[str, int] = {}
    for each in unfinished:
        counts[each.status] += each.messages
        oldest[each.status] = min(each.oldest_id, oldest.get(each.status, each.oldest_id))
    counts["consumed"], is_estimate = _consumed(model, sum(counts.values()), using)
    ages = _ages(model, oldest.values(), using)
    return {
        **{status: counts[status] for status in model.Status.values},
        **{f"oldest_{status}_seconds": ages.get(oldest.get(status)) for status in with_age},
        "consumed_is_estimate": is_estimate,
        **_due(model, using),
    }


def _consumed(model: Model, unfinished: int, using: str) -> tuple[int, bool]:
    """How many messages are consumed, and whether that is only about right."""
    rows = rows_estimate(model, using)
    if rows is not None and rows - unfinished > 2 * EXACT_CONSUMED:
        return rows - unfinished, True
    consumed = _own(model, using).filter(status="consumed").order_by()
    count = consumed.values("id")[: EXACT_CONSUMED + 1].count()
    if count <= EXACT_CONSUMED:
        return count, False
    return max(count, (rows or 0) - unfinished), True


def unfinished_topics(using: str) -> frozenset[str]:
    """Topics of pending and published messages.

    Each is one step along an index, a thousand in each state at most; without partial indexes, those of the ten thousand
    oldest messages in each state.
    """
    topics: set[str] = set()
    for status in ("pending", "published"):
        if connections[using].features.supports_partial_indexes:
            topics.update(islice(_steps(_own(OutboxMessage, using).filter(status=status)), MOST_TOPICS))
        else:
            oldest = oldest_first(_own(OutboxMessage, using), status)
            topics.update(oldest.values_list("topic", flat=True)[:LOOKED_AT])
    return frozenset(topics)


def _steps(messages: Any) -> Iterator[str]:
    topics = messages.order_by("topic").values_list("topic", flat=True)
    topic = topics.first()
    while topic is not None:
        yield topic
        topic = topics.filter(topic__gt=topic).first()


def _ages(model: Model, ids: Any, using: str) -> dict[int | None, float]:
    """Seconds since these messages were written, by id."""
    rows = model.objects.using(using).filter(id__in=list(ids)).values_list("id", "created_at", DatabaseNow())
    return {id: _seconds(now - created_at) for id, created_at, now in rows}


def _due(model: Model, using: str) -> dict[str, Any]:
    """What should have been sent or handled by now, and when the next is due."""
    pending = _own(model, using).filter(status="pending").order_by()
    now = DatabaseNow()
    later = pending.filter(next_retry_at__gt=now).order_by("next_retry_at").values_list("next_retry_at", now).first()
    return {
        "due": pending.filter(next_retry_at__lte=now).count(),
        "longest_due_seconds": _longest_due(pending),
        "next_due_seconds": _seconds(later[0] - later[1]) if later else None,
    }


def _longest_due(pending: Any) -> float | None:
    # MySQL's index on the time has all rows, and begins with those that have none.
    due = pending.filter(next_retry_at__lte=DatabaseNow()).order_by("next_retry_at")
    first = due.values_list("next_retry_at", DatabaseNow()).first()
    return _seconds(first[1] - first[0]) if first else None


def longest_due(using: str) -> float | None:
    """Seconds since a message of the outbox was due to be sent and is not; None if there is none."""
    return _longest_due(OutboxMessage.objects.using(using).own().pending())


def _topics(unfinished: list[TopicCount], using: str) -> list[dict[str, Any]]:
    ages = _ages(OutboxMessage, [each.oldest_id for each in unfinished], using)
    topics: dict[str, dict[str, Any]] = {}
    for each in sorted(unfinished):
        empty: dict[str, Any] = {"topic": each.topic}
        for status in ("pending", "published", "dead"):
            empty |= {status: 0, f"oldest_{status}_seconds": None}
        topics.setdefault(each.topic, empty)
        topics[each.topic][each.status] = each.messages
        topics[each.topic][f"oldest_{each.status}_seconds"] = ages.get(each.oldest_id)
    return list(topics.values())


def _unread_topics(longest_awaited: float | None, seen: list[Any], using: str) -> list[dict[str, Any]]:
    """Topics that no consumer reads although messages wait there; looked for when messages are late."""
    if longest_awaited is None or longest_awaited <= LATE.total_seconds():
        return []
    return [{"topic": each.topic, "longest_awaited_seconds": each.seconds} for each in unread.waits(using, seen).unread]


def _next_retries(model: Model, using: str) -> Any:
    """The next to be due of those that failed."""
    columns = ("id", "event_type", "topic", "retry_count", "max_retry", "fingerprint", "next_retry_at")
    return (
        _own(model, using)
        .filter(status="pending", next_retry_at__gt=DatabaseNow(), retry_count__gt=0)
        .order_by("next_retry_at", "id")
        .values_list(*columns, DatabaseNow())[:RETRIES]
    )


def _retry(table: str, row: Any) -> dict[str, Any]:
    """No payload, no key and no error's text, which may be secret."""
    id, event_type, topic, failures, allowed, fingerprint, due_at, now = row
    return {
        "table": table,
        "id": id,
        "event_type": event_type,
        "topic": topic,
        "failures": failures,
        "max_retry": allowed,
        "due_in_seconds": _seconds(due_at - now),
        "error": fingerprint,
    }


def _rates(seen: list[Any], using: str) -> dict[str, Any]:
    """Messages a second: what workers say now, and in the last whole periods."""
    found = throughput(using, timezone.now())
    alive = [worker for worker in seen if not worker.is_lost]
    now = {
        "published": sum(worker.rate for worker in alive if worker.kind == Worker.Kind.RELAY),
        "consumed": sum(worker.rate for worker in alive if worker.kind == Worker.Kind.CONSUMER),
    }
    return {
        "now": now,
        "ten_minutes": _rate(found, 1),
        "hour": _rate(found, 3600 // Activity.SECONDS),
        "day": _rate(found, len(found.starts)),
    }


def _rate(found: Throughput, periods: int) -> dict[str, float]:
    seconds = periods * Activity.SECONDS
    numbers = {"written": found.written, "published": found.published, "consumed": found.consumed}
    return {name: round(sum(counts[-periods:]) / seconds, 3) for name, counts in numbers.items()}


def _worker(worker: Any) -> dict[str, Any]:
    return {
        "kind": worker.kind,
        "group": worker.group,
        "host": worker.host,
        "pid": worker.pid,
        "version": worker.version,
        "state": "lost" if worker.is_lost else worker.state,
        "rate": worker.rate,
        "running_seconds": _seconds(worker.now - worker.started_at),
        "silent_seconds": _seconds(worker.now - worker.last_seen_at),
        "trouble": worker.trouble,
    }


def lag_by_group(patience: float = PATIENCE_SECONDS) -> list[dict[str, Any]]:
    """How far each consumer group of this project is behind, as far as the broker answers in time.

    Raises:
        ImproperlyConfigured: no broker can be made of the settings.
    """
    return [_lag(group, answer) for group, answer in lag_of_groups(topics_by_group(), patience=patience).items()]


def topics_by_group() -> dict[str, frozenset[str]]:
    """What each group of this project reads, the main one first."""
    try:
        registry.load()
    except HandlersNotImportable:
        return {settings.consumer_group: settings.topics}
    return {group: GroupHandlers(registry, group).default_topics for group in registry.groups}


def _lag(group: str, answer: Answer | None) -> dict[str, Any]:
    if answer is None:
        answer = Answer([], "The broker does not answer in time.")
    return {
        "group": group,
        "lag": answer.lag if not answer.trouble else None,
        "trouble": answer.trouble,
        "partitions": [partition._asdict() for partition in answer.partitions],
    }


def _seconds(age: timedelta) -> float:
    return max(0.0, age.total_seconds())
