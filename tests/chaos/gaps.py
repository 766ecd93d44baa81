"""For how long nothing was sent or handled after a broker was killed, by whether partitions need that broker."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise

from tests.chaos.database import Server

WINDOW_SECONDS = 20.0  # after a kill; messages must be published meanwhile
SENT = (
    "SELECT partition, extract(epoch FROM published_at) FROM django_outbox_outboxmessage WHERE published_at IS NOT NULL"
)
HANDLED = """
    SELECT message.partition, extract(epoch FROM leg.created_at)
    FROM chaos_leg AS leg JOIN django_outbox_outboxmessage AS message ON (message.payload->>'number')::int = leg.number
"""


def longest_gap(times: Iterable[float], began_at: float, ended_at: float) -> float:
    """The longest time without an event, in seconds, of those that begin between ``began_at`` and ``ended_at``.

    Without any event, that is the whole time.
    """
    later_ones = sorted(at for at in times if at > began_at)
    events = [began_at, *later_ones, max([ended_at, *later_ones])]
    return max(later - earlier for earlier, later in pairwise(events) if earlier < ended_at)


def report(server: Server, killed: Sequence[tuple[float, int]], replicas: Mapping[int, Collection[int]]) -> str:
    """The longest gaps after all kills.

    Args:
        killed: when which broker was killed, in seconds since the epoch.
        replicas: the brokers of each partition.
    """
    lines = []
    for name, sql in (("sent", SENT), ("handled", HANDLED)):
        events = [(int(partition), float(at)) for partition, at in server.query(sql) if partition is not None]
        longest = {True: 0.0, False: 0.0}
        for at, broker in killed:
            for needs in longest:
                chosen = {partition for partition, brokers in replicas.items() if (broker in brokers) is needs}
                if not chosen:
                    continue
                times = (when for partition, when in events if partition in chosen)
                longest[needs] = max(longest[needs], longest_gap(times, at, at + WINDOW_SECONDS))
        lines.append(
            f"longest time after a broker was killed in which nothing was {name}: {longest[True]:.1f} s in partitions that "
            f"need it, {longest[False]:.1f} s in the others"
        )
    return "\n".join(lines)
