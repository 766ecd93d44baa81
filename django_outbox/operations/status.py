"""The document that outbox_status prints.

Ages are in seconds, by the database's clock. ``oldest_..._seconds``: since a message was written (inbox: received).
``longest_due_seconds``: since a pending message was due. ``longest_awaited_seconds``: since a message was sent that a
handler here has yet to handle. A message with a delay, or one that waits for its retry, is not due. ``busy_seconds``: of
the lane of a consumer that has been busy longest, at its last heartbeat.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from django.utils import timezone

from django_outbox.models import Activity, InboxMessage, OutboxMessage, Worker
from django_outbox.models.fields import DatabaseNow
from django_outbox.operations import counts
from django_outbox.operations.activity import throughput
from django_outbox.operations.counts import Model, TopicCount, own, seconds
from django_outbox.operations.lag import TIMEOUT_SECONDS, GroupLag, lag_of_groups
from django_outbox.operations.pausing import PauseStatus, known_pauses
from django_outbox.operations.topics import awaited, topics_by_group
from django_outbox.operations.workers import is_late, known_workers
from django_outbox.state.slot import Slot, debezium_slot
from django_outbox.state.unhandled import longest_unhandled

RETRIES = 5


def full_status(using: str, *, broker: bool = True, timeout: float = TIMEOUT_SECONDS) -> dict[str, Any]:
    """All that outbox_status shows.

    Args:
        using: alias of the database.
        broker: False leaves out the lag.
        timeout: seconds to wait for the broker.

    Raises:
        ImproperlyConfigured: the settings name no usable broker.
    """
    unfinished = counts.count_by_topic(OutboxMessage, using)
    workers = known_workers(using)
    outbox = _status(OutboxMessage, ("pending", "published", "dead"), unfinished, using)
    outbox["longest_awaited_seconds"] = longest_unhandled(using)
    inbox = _status(InboxMessage, ("pending",), counts.count_by_topic(InboxMessage, using), using)
    lag = lag_of_groups(topics_by_group(), timeout=timeout) if broker else None
    return {
        "outbox": outbox,
        "inbox": inbox,
        "topics": _topics(unfinished, using),
        "unread_topics": _unread_topics(outbox["longest_awaited_seconds"], workers, using),
        "pauses": [_pause(each) for each in known_pauses(using)],
        "retries": [*_next_retries("outbox", OutboxMessage, using), *_next_retries("inbox", InboxMessage, using)],
        "rates": _rates(workers, using),
        "workers": [_worker(worker) for worker in workers],
        "lag": None if lag is None else [_lag(group, each) for group, each in lag.items()],
        "debezium": _slot(debezium_slot(using)),
    }


def _status(model: Model, with_age: tuple[str, ...], unfinished: list[TopicCount], using: str) -> dict[str, Any]:
    messages: dict[str, int] = defaultdict(int)
    oldest: dict[str, int] = {}
    for each in unfinished:
        messages[each.status] += each.messages
        oldest[each.status] = min(each.oldest_id, oldest.get(each.status, each.oldest_id))
    messages["consumed"], is_estimate = counts.count_consumed(model, sum(messages.values()), using)
    ages = counts.ages(model, oldest.values(), using)
    pending = own(model, using).filter(status="pending").order_by()
    now = DatabaseNow()
    later = pending.filter(next_retry_at__gt=now).order_by("next_retry_at").values_list("next_retry_at", now).first()
    return {
        **{status: messages[status] for status in model.Status.values},
        **{f"oldest_{status}_seconds": ages.get(oldest.get(status)) for status in with_age},
        "consumed_is_estimate": is_estimate,
        "due": pending.filter(next_retry_at__lte=now).count(),
        "longest_due_seconds": counts.longest_due(model, using),
        "next_due_seconds": seconds(later[0] - later[1]) if later else None,
    }


def _topics(unfinished: list[TopicCount], using: str) -> list[dict[str, Any]]:
    ages = counts.ages(OutboxMessage, [each.oldest_id for each in unfinished], using)
    topics: dict[str, dict[str, Any]] = {}
    for each in sorted(unfinished):
        empty: dict[str, Any] = {"topic": each.topic}
        for status in ("pending", "published", "dead"):
            empty |= {status: 0, f"oldest_{status}_seconds": None}
        topics.setdefault(each.topic, empty)
        topics[each.topic][each.status] = each.messages
        topics[each.topic][f"oldest_{each.status}_seconds"] = ages.get(each.oldest_id)
    return list(topics.values())


def _unread_topics(longest_unhandled: float | None, workers: list[Any], using: str) -> list[dict[str, Any]]:
    """Topics with late messages that no consumer reads."""
    if not is_late(longest_unhandled):
        return []
    _, unread = awaited(using, workers)
    return [{"topic": each.topic, "longest_awaited_seconds": each.seconds} for each in unread]


def _next_retries(table: str, model: Model, using: str) -> list[dict[str, Any]]:
    """Failed messages, the next to be retried first. Without payload, key and error text, which may be secret."""
    columns = ("id", "event_type", "topic", "retry_count", "max_retry", "fingerprint", "next_retry_at")
    rows = (
        own(model, using)
        .filter(status="pending", next_retry_at__gt=DatabaseNow(), retry_count__gt=0)
        .order_by("next_retry_at", "id")
        .values_list(*columns, DatabaseNow())[:RETRIES]
    )
    return [
        {
            "table": table,
            "id": id,
            "event_type": event_type,
            "topic": topic,
            "failures": failures,
            "max_retry": max_retry,
            "due_in_seconds": seconds(due_at - now),
            "error": fingerprint,
        }
        for id, event_type, topic, failures, max_retry, fingerprint, due_at, now in rows
    ]


def _rates(workers: list[Any], using: str) -> dict[str, Any]:
    """Messages per second: now, as workers report it, and in the last whole periods."""
    found = throughput(using, timezone.now())
    alive = [worker for worker in workers if not worker.is_lost]
    return {
        "now": {
            "published": sum(worker.rate for worker in alive if worker.kind == Worker.Kind.RELAY),
            "consumed": sum(worker.rate for worker in alive if worker.kind == Worker.Kind.CONSUMER),
        },
        "ten_minutes": found.rates(1),
        "hour": found.rates(3600 // Activity.SECONDS),
        "day": found.rates(len(found.starts)),
    }


def _pause(pause: PauseStatus) -> dict[str, Any]:
    return {
        "group": pause.group,
        "event_type": pause.event_type or None,
        "handler": pause.handler or None,
        "reason": pause.reason,
        "by": pause.by,
        "paused_seconds": pause.seconds,
        "tried_in_seconds": pause.seconds_left,
        "waiting": pause.waiting,
    }


def _worker(worker: Any) -> dict[str, Any]:
    return {
        "kind": worker.kind,
        "group": worker.group,
        "host": worker.host,
        "pid": worker.pid,
        "version": worker.version,
        "state": "lost" if worker.is_lost else worker.state,
        "rate": worker.rate,
        "running_seconds": seconds(worker.now - worker.started_at),
        "silent_seconds": seconds(worker.now - worker.last_seen_at),
        "trouble": worker.trouble,
        "lanes": worker.lanes,
        "busy_lanes": worker.busy_lanes,
        "in_progress": worker.in_progress,
        "busy_seconds": worker.busy_seconds,
        "busy_key": worker.busy_key,
    }


def _slot(slot: Slot | None) -> dict[str, Any] | None:
    if slot is None:
        return None
    return {
        "slot": slot.name,
        "present": slot.present,
        "active": slot.active,
        "wal_status": slot.wal_status,
        "lag_bytes": slot.lag_bytes,
        "lag_seconds": slot.lag_seconds,
        "retained_bytes": slot.retained_bytes,
    }


def _lag(group: str, lag: GroupLag) -> dict[str, Any]:
    return {
        "group": group,
        "lag": None if lag.trouble else lag.lag,
        "trouble": lag.trouble,
        "partitions": [partition._asdict() for partition in lag.partitions],
    }
