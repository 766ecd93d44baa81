"""``outbox_status --check``: one line and an exit code, as monitoring systems take them.

As the Monitoring Plugins' development guidelines have it: a word, a reason, and performance data behind a bar. They
keep UNKNOWN (3) for bad usage and failures within the plugin and say that timeouts and the like are none: so a
database or a broker that does not answer is CRITICAL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

OK, WARNING, CRITICAL, UNKNOWN = 0, 1, 2, 3
WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


@dataclass(frozen=True)
class Limits:
    """What is compared with; None compares nothing.

    Attributes:
        age: seconds that a message may be late.
        dead: messages that may be dead, in the outbox, and in the inbox.
        lag: records that a group may be behind.
    """

    age: float | None = None
    dead: int | None = None
    lag: int | None = None


class Verdict(NamedTuple):
    """What is to be said, and by which exit code."""

    code: int
    line: str


class Fault(NamedTuple):
    """One limit that is passed."""

    code: int
    reason: str


def verdict(status: Mapping[str, Any], limits: Limits) -> Verdict:
    """Compare a status with limits. Too old and too far behind is CRITICAL, too many dead a WARNING."""
    faults = list(_faults(status, limits))
    code = max((fault.code for fault in faults), default=OK)
    outbox = status["outbox"]
    counts = ", ".join(f"{outbox[name]} {name}" for name in ("pending", "published", "consumed", "dead"))
    text = "; ".join(fault.reason for fault in faults) or counts
    return Verdict(code, line(code, text, " ".join(_performance(status, limits))))


def line(code: int, text: str, performance: str = "") -> str:
    """The line of a plugin. A bar would begin the performance data."""
    shown = f"OUTBOX {WORDS[code]} - {text.replace('|', '/')}"
    return f"{shown} | {performance}" if performance else shown


def _faults(status: Mapping[str, Any], limits: Limits) -> Iterator[Fault]:
    outbox, inbox = status["outbox"], status["inbox"]
    if limits.dead is not None:
        if outbox["dead"] > limits.dead:
            yield Fault(WARNING, f"{outbox['dead']} dead")
        if inbox["dead"] > limits.dead:
            yield Fault(WARNING, f"{inbox['dead']} dead in the inbox")
    if limits.age is not None:
        for seconds, text in (
            (outbox["longest_due_seconds"], "a pending message has been due for"),
            (outbox["longest_awaited_seconds"], "a published message has waited for its handler for"),
            (inbox["longest_due_seconds"], "a pending message of the inbox has been due for"),
        ):
            if seconds is not None and seconds > limits.age:
                yield Fault(CRITICAL, f"{text} {seconds:.0f} s")
        for topic in status["unread_topics"]:
            if topic["longest_awaited_seconds"] > limits.age:
                yield Fault(CRITICAL, f"no consumer reads the topic {topic['topic']}")
    if limits.lag is not None:
        for group in status["lag"]:
            if not group["trouble"] and group["lag"] > limits.lag:
                yield Fault(CRITICAL, f"group {group['group']} is {group['lag']} records behind")
        for trouble in sorted({group["trouble"] for group in status["lag"] if group["trouble"]}):
            yield Fault(CRITICAL, f"the lag is not known: {trouble}")


def _performance(status: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    """'label'=value[unit];[warn];[crit];[min] for graphs."""
    outbox, inbox = status["outbox"], status["inbox"]
    age, dead, lag = ("" if limit is None else f"{limit:g}" for limit in (limits.age, limits.dead, limits.lag))
    yield f"pending={outbox['pending']};;;0"
    yield f"published={outbox['published']};;;0"
    yield f"dead={outbox['dead']};{dead};;0"
    yield f"due_age={outbox['longest_due_seconds'] or 0:.1f}s;;{age};0"
    yield f"awaited_age={outbox['longest_awaited_seconds'] or 0:.1f}s;;{age};0"
    yield f"inbox_pending={inbox['pending']};;;0"
    yield f"inbox_dead={inbox['dead']};{dead};;0"
    yield f"inbox_due_age={inbox['longest_due_seconds'] or 0:.1f}s;;{age};0"
    for group in status["lag"] or ():
        if group["lag"] is not None:
            yield f"'lag_{_label(group['group'])}'={group['lag']};;{lag};0"


def _label(text: str) -> str:
    return text.replace("'", "_").replace("=", "_").replace("|", "_")
