"""The text output of ``outbox_status``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django_outbox.management.columns import columns, duration
from django_outbox.observability.text import shortened, size
from django_outbox.operations.counts import counted
from django_outbox.operations.workers import is_late

PARTITIONS = 20


def status_text(status: Mapping[str, Any]) -> str:
    """All tables that have rows."""
    return "\n\n".join(table for table in _tables(status) if table)


def _tables(status: Mapping[str, Any]) -> Iterator[str]:
    yield _states("OUTBOX", status["outbox"], ("pending", "published", "dead"))
    inbox = status["inbox"]
    if any(inbox[state] for state in ("pending", "consumed", "dead")):
        yield _states("INBOX", inbox, ("pending",))
    yield _topics(status["topics"])
    for topic in status["unread_topics"]:
        waited = duration(topic["longest_awaited_seconds"])
        yield f"No consumer reads the topic {topic['topic']}. Messages there have waited for {waited}: see manage.py outbox_doctor"
    yield _pauses(status["pauses"])
    yield _retries(status["retries"])
    yield _rates(status["rates"])
    yield _workers(status["workers"])
    yield _slot(status["debezium"])
    lag = status["lag"] or []
    if lag and all(group["trouble"] for group in lag):
        yield f"Lag of the consumer groups: unknown. {lag[0]['trouble']}"
    else:
        yield from map(_lag, lag)


def _states(title: str, states: Mapping[str, Any], with_age: tuple[str, ...]) -> str:
    rows = [[title, "MESSAGES", "OLDEST", "LATE BY"]]
    late = {"pending": states["longest_due_seconds"], "published": states.get("longest_awaited_seconds")}
    for state in ("pending", "published", "consumed", "dead"):
        if state in states:
            about = "~" if state == "consumed" and states["consumed_is_estimate"] else ""
            age = duration(states[f"oldest_{state}_seconds"]) if state in with_age else ""
            rows.append([state, f"{about}{states[state]:,}", age, duration(late[state]) if state in late else ""])
    text = columns(rows, right={1, 2, 3})
    due = f"{states['due']:,} due now" if states["due"] else ""
    later = "" if states["next_due_seconds"] is None else f"the next is due in {duration(states['next_due_seconds'])}"
    more = ", ".join(filter(None, (due, later)))
    return f"{text}\n{more}" if more else text


def _topics(topics: list[dict[str, Any]]) -> str:
    if not topics:
        return ""
    rows = [["TOPIC", "PENDING", "OLDEST", "PUBLISHED", "OLDEST", "DEAD", "OLDEST"]]
    for topic in topics:
        rows.append([topic["topic"]])
        for state in ("pending", "published", "dead"):
            rows[-1] += [f"{topic[state]:,}", duration(topic[f"oldest_{state}_seconds"])]
    return columns(rows, right=range(1, 7))


def _pauses(pauses: list[dict[str, Any]]) -> str:
    if not pauses:
        return ""
    rows = [["PAUSED", "GROUP", "WAITING", "FOR", "NEXT TRY", "BY", "REASON"]]
    for pause in pauses:
        subject = pause["event_type"] or pause["handler"]
        waiting = f"{sum(pause['waiting'].values()):,}"
        age, next_try = duration(pause["paused_seconds"]), duration(pause["tried_in_seconds"])
        rows.append([subject, pause["group"], waiting, age, next_try, pause["by"], pause["reason"]])
    return columns(rows, right={2, 3, 4})


def _retries(retries: list[dict[str, Any]]) -> str:
    if not retries:
        return ""
    rows = [["NEXT RETRIES", "EVENT TYPE", "TOPIC", "FAILURES", "DUE IN", "ERROR"]]
    for retry in retries:
        failures, due = f"{retry['failures']} of {retry['max_retry']}", duration(retry["due_in_seconds"])
        name = f"{retry['table']} {retry['id']}"
        rows.append([name, retry["event_type"], retry["topic"], failures, due, retry["error"]])
    return columns(rows)


def _rates(rates: Mapping[str, Mapping[str, float]]) -> str:
    if not any(number for each in rates.values() for number in each.values()):
        return ""
    rows = [["MESSAGES/S", "NOW", "10 MIN", "1 H", "24 H"]]
    for name in ("written", "published", "consumed"):
        cells = [rates[period].get(name) for period in ("now", "ten_minutes", "hour", "day")]
        rows.append([name, *("-" if number is None else f"{number:,.1f}" for number in cells)])
    return columns(rows, right=range(1, 5))


def _workers(workers: list[dict[str, Any]]) -> str:
    if not workers:
        return "No relay or consumer is running. Start them: manage.py outbox_relay, manage.py outbox_consume"
    shows_lanes = any(each["lanes"] > 1 or is_late(each["busy_seconds"]) for each in workers if each["state"] != "lost")
    head = ["WORKER", "GROUP", "STATE", "RATE/S", "RUNNING", "LAST SEEN", "VERSION"]
    rows = [[*head, *(["IN PROGRESS WHEN LAST SEEN"] if shows_lanes else []), "TROUBLE"]]
    rows += [
        [
            f"{worker['kind']} {worker['host']}:{worker['pid']}",
            worker["group"] or "-",
            worker["state"],
            f"{worker['rate']:,.1f}",
            duration(worker["running_seconds"]),
            f"{duration(worker['silent_seconds'])} ago",
            worker["version"],
            *([_in_progress(worker)] if shows_lanes else []),
            worker["trouble"],
        ]
        for worker in workers
    ]
    return columns(rows, right={3})


def _slot(slot: dict[str, Any] | None) -> str:
    if slot is None:
        return ""
    if not slot["present"]:
        return f"The replication slot {slot['slot']} does not exist: see manage.py outbox_doctor"
    head = ["DEBEZIUM SLOT", "STATE", "WAL", "BEHIND", "FOR", "WAL KEPT"]
    state = "active" if slot["active"] else "not read"
    sizes = [size(slot[name]) for name in ("lag_bytes", "retained_bytes")]
    row = [slot["slot"], state, slot["wal_status"] or "-", sizes[0], duration(slot["lag_seconds"]), sizes[1]]
    return columns([head, row], right={3, 4, 5})


def _in_progress(worker: dict[str, Any]) -> str:
    if worker["kind"] != "consumer" or worker["state"] == "lost":
        return "-"
    lanes = f"{worker['busy_lanes']} of {counted(worker['lanes'], 'lane')} busy"
    if not worker["in_progress"]:
        return lanes
    key = f" with {shortened(worker['busy_key'])}" if worker["busy_key"] else ""
    messages = counted(worker["in_progress"], "message")
    return f"{lanes}, {messages}, one for {duration(worker['busy_seconds'])}{key}"


def _lag(group: dict[str, Any]) -> str:
    if group["trouble"]:
        return f"Lag of the group {group['group']}: unknown. {group['trouble']}"
    behind = [partition for partition in group["partitions"] if partition["lag"]]
    if not behind:
        partitions = len(group["partitions"])
        read = f"has read {counted(partitions, 'partition')} to the end" if partitions else "has no topics to read yet"
        return f"Group {group['group']} {read}."
    head = (
        f"Group {group['group']} is {counted(group['lag'], 'record')} behind, in {counted(len(behind), 'partition')}."
    )
    rows = [["TOPIC", "PARTITION", "COMMITTED", "END", "LAG"]]
    for each in behind[:PARTITIONS]:
        committed = "-" if each["committed"] is None else f"{each['committed']:,}"
        rows.append([each["topic"], str(each["partition"]), committed, f"{each['end']:,}", f"{each['lag']:,}"])
    more = len(behind) - PARTITIONS
    return f"{head}\n{columns(rows, right=range(1, 5))}" + (f"\n... and {more} more" if more > 0 else "")
