"""What a run did in each second, by the rows that it left, and what the outbox counted."""

from __future__ import annotations

from typing import NamedTuple

from tests.chaos.checker import LegRow
from tests.chaos.database import Server

BY_SECOND = """
    SELECT floor(extract(epoch FROM created_at) - {began_at})::int AS second, count(*) FROM {table} GROUP BY second ORDER BY second
"""
LEFT = """
    SELECT (SELECT count(*) FROM chaos_departure), count(*) FROM chaos_departure AS departure
    WHERE NOT EXISTS (SELECT FROM chaos_leg AS leg WHERE leg.number = departure.number)
"""
COUNTED = """
    SELECT coalesce(sum(greatest(publish_count - 1, 0)), 0), coalesce(sum(retry_count), 0),
           count(*) FILTER (WHERE status = 'dead')
    FROM django_outbox_outboxmessage
"""


class Timeline(NamedTuple):
    """Flights by second, from the beginning."""

    published: list[int]
    handled: list[int]

    @property
    def backlog(self) -> list[int]:
        """Published and not handled, at the end of each second."""
        left, found = 0, []
        for published, handled in zip(self.published, self.handled, strict=True):
            left += published - handled
            found.append(left)
        return found


class Counted(NamedTuple):
    """What the outbox counted."""

    resent: int
    failed: int
    dead: int


def timeline(server: Server, began_at: float) -> Timeline:
    """The seconds of a run.

    Args:
        began_at: in seconds since the epoch.
    """
    found = [
        dict(server.query(BY_SECOND.format(table=table, began_at=began_at)))
        for table in ("chaos_departure", "chaos_leg")
    ]
    seconds = range(max(max(each, default=0) for each in found) + 1)
    return Timeline(*([each.get(second, 0) for second in seconds] for each in found))


def published(server: Server) -> list[int]:
    """The numbers of the flights that were committed."""
    return [number for (number,) in server.query("SELECT number FROM chaos_departure")]


def legs(server: Server) -> list[LegRow]:
    """What the handler wrote, in its order."""
    return [LegRow(*row) for row in server.query("SELECT number, tail, sequence, miles FROM chaos_leg ORDER BY id")]


def left(server: Server) -> tuple[int, int]:
    """How many flights are published so far, and how many of them are not handled."""
    ((departures, missing),) = server.query(LEFT)
    return departures, missing


def unfinished(server: Server) -> int:
    """How many messages the outbox has not brought to an end."""
    ((found,),) = server.query(
        "SELECT count(*) FROM django_outbox_outboxmessage WHERE status IN ('pending', 'published')"
    )
    return int(found)


def counted(server: Server) -> Counted:
    """What the outbox counted."""
    ((resent, failed, dead),) = server.query(COUNTED)
    return Counted(int(resent), int(failed), dead)


def handled_by_release(server: Server) -> dict[int, int]:
    """How many flights each release of the app handled."""
    return dict(server.query("SELECT coalesce(release, 1) AS it, count(*) FROM chaos_leg GROUP BY it ORDER BY it"))
