"""The table of crash points: which steps each scenario passes."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

PATH = Path(__file__).with_name("steps.json")
# Steps by which others see the work of a relay or a consumer. A kill at any other undoes it, or changes nothing.
VISIBLE = re.compile(
    r"(relay\.relay\.Relay\.run_once|consumer\.engine\.Engine\._run): COMMIT|.*: (Producer\.send|Subscription\.commit)"
)
BY_DJANGO = {"worker.heartbeat.record_activity: COMMIT"}
"""Steps that some versions of Django pass: before 6.1, a single row is inserted in a transaction of its own."""
LOOK = "consumer.outbox.OutboxSource.wait_on > state.outbox.still_published: SELECT outboxmessage"
"""After a short while, a message that waits is looked after. Scenarios in which its turn may come sooner do not list it."""
Point = tuple[str, str]


def read() -> dict[str, list[Point]]:
    """By scenario, its points in the order in which they were passed when they were recorded."""
    table = json.loads(PATH.read_text()) if PATH.exists() else {}
    return {scenario: [_point(text) for text in points] for scenario, points in table.items()}


def write(scenario: str, points: Iterable[Point], scenarios: Iterable[str]) -> None:
    """Replace the points of a scenario. If they are the same in another order, the table stays as it is."""
    new = list(dict.fromkeys(points))
    folder = os.open(PATH.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # other processes record other scenarios
        table = read()
        if set(table.get(scenario, ())) != set(new):
            table[scenario] = new
        kept = {name: [" ".join(point) for point in table[name]] for name in scenarios if name in table}
        unfinished = PATH.with_suffix(".new")
        unfinished.write_text(f"{json.dumps(kept, indent=1)}\n")
        unfinished.replace(PATH)
    finally:
        os.close(folder)


def kills(table: Mapping[str, list[Point]]) -> dict[str, list[Point]]:
    """By scenario, the points at which its process is killed.

    At steps that others can see, in each scenario that passes them; at others, in the first.
    """
    known: set[Point] = set()
    chosen: dict[str, list[Point]] = {}
    for scenario, points in table.items():
        chosen[scenario] = [point for point in points if point not in known or VISIBLE.match(point[1])]
        known.update(points)
    return chosen


def _point(text: str) -> Point:
    side, _, name = text.partition(" ")
    return side, name
