"""``outbox_status --check``: one line and an exit code for monitoring systems.

Follows the Monitoring Plugins' guidelines: a status word, a reason, and performance data after a bar. UNKNOWN (3) is for
wrong usage and failures of the plugin; a database or a broker that does not answer is CRITICAL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

OK, WARNING, CRITICAL, UNKNOWN = 0, 1, 2, 3
WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


class Limits(NamedTuple):
    """The limits; None means no limit.

    Attributes:
        age: seconds that a message may be late.
        dead: dead messages allowed in the outbox, and in the inbox.
        lag: unread records allowed per group.
    """

    age: float | None = None
    dead: int | None = None
    lag: int | None = None


def check(status: Mapping[str, Any], limits: Limits) -> tuple[int, str]:
    """The exit code and the line to print: age and lag are CRITICAL, dead messages a WARNING."""
    exceeded = list(_exceeded(status, limits))
    code = max((code for code, _ in exceeded), default=OK)
    counts = ", ".join(f"{status['outbox'][name]} {name}" for name in ("pending", "published", "consumed", "dead"))
    text = "; ".join(reason for _, reason in exceeded) or counts
    return code, line(code, text, " ".join(_performance(status, limits)))


def line(code: int, text: str, performance: str = "") -> str:
    """The line of a plugin. A bar in the text would start the performance data."""
    shown = f"OUTBOX {WORDS[code]} - {text.replace('|', '/')}"
    return f"{shown} | {performance}" if performance else shown


def _exceeded(status: Mapping[str, Any], limits: Limits) -> Iterator[tuple[int, str]]:
    """The exit code and the reason for each limit that is exceeded."""
    outbox, inbox = status["outbox"], status["inbox"]
    if limits.dead is not None:
        if outbox["dead"] > limits.dead:
            yield WARNING, f"{outbox['dead']} dead"
        if inbox["dead"] > limits.dead:
            yield WARNING, f"{inbox['dead']} dead in the inbox"
    if limits.age is not None:
        for seconds, text in (
            (outbox["longest_due_seconds"], "a pending message has been due for"),
            (outbox["longest_awaited_seconds"], "a published message has waited for its handler for"),
            (inbox["longest_due_seconds"], "a pending inbox message has been due for"),
        ):
            if seconds is not None and seconds > limits.age:
                yield CRITICAL, f"{text} {seconds:.0f} s"
        for topic in status["unread_topics"]:
            if topic["longest_awaited_seconds"] > limits.age:
                yield CRITICAL, f"no consumer reads the topic {topic['topic']}"
    if limits.lag is not None:
        for group in status["lag"]:
            if not group["trouble"] and group["lag"] > limits.lag:
                yield CRITICAL, f"group {group['group']} is {group['lag']} records behind"
        for trouble in sorted({group["trouble"] for group in status["lag"] if group["trouble"]}):
            yield CRITICAL, f"lag unknown: {trouble}"


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
            label = re.sub("['=|]", "_", group["group"])
            yield f"'lag_{label}'={group['lag']};;{lag};0"
