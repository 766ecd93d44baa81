"""What became of all messages, by the database."""

from __future__ import annotations

from collections import Counter
from typing import Any

LOST = """
    SELECT count(*) FROM django_outbox_outboxmessage AS message
    WHERE NOT EXISTS (SELECT FROM tests_app_effect WHERE event_id = message.event_id::text)
"""
TWICE = "SELECT count(*) - count(DISTINCT event_id) FROM tests_app_effect"
OUT_OF_ORDER = """
    SELECT count(*) FROM (
        SELECT message.id, max(message.id) OVER (PARTITION BY message_key ORDER BY effect.id) AS latest
        FROM tests_app_effect AS effect JOIN django_outbox_outboxmessage AS message ON message.event_id::text = effect.event_id
    ) AS handled WHERE id < latest
"""
RESENT = "SELECT count(*), coalesce(sum(greatest(publish_count - 1, 0)), 0), coalesce(sum(retry_count), 0) FROM django_outbox_outboxmessage"
BY_SECOND = """
    SELECT floor(extract(epoch FROM created_at) - %s)::int AS second, count(*) FROM tests_app_effect GROUP BY second ORDER BY second
"""


def query(sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def lost() -> int:
    """How many messages have no effect, by now."""
    return int(query(LOST)[0][0])


def verdict(began_at: float, quiet_from: float, what: str, requeued: Counter[str]) -> int:
    """Print what became of all messages; 0 if nothing was lost, handled twice or out of order.

    Args:
        began_at: in seconds since the epoch.
        quiet_from: seconds after that, without faults.
        requeued: by reason, as workers counted it.
    """
    missing, twice, out_of_order = (int(query(sql)[0][0]) for sql in (LOST, TWICE, OUT_OF_ORDER))
    ((messages, resent, failed),) = query(RESENT)
    by_second = dict(query(BY_SECOND, began_at))
    rates = [by_second.get(second, 0) for second in range(max(by_second, default=0) + 1)]
    after = rates[int(quiet_from) :]
    most = seconds = 0
    while most < 0.95 * sum(after):
        most, seconds = most + after[seconds], seconds + 1
    print(f"handled in each second, without faults from {quiet_from:.0f} on: {' '.join(map(str, rates))}")
    print(
        f"{what}: lost {missing}, twice {twice}, out of order {out_of_order}, "
        f"re-sends {(resent - failed) / messages:.3f} a message ({dict(requeued)}, failed {failed}), "
        f"drained {sum(after)} without faults, 95 % of them in {seconds} s ({most / max(seconds, 1):.0f} a second)"
    )
    return 1 if missing or twice or out_of_order else 0
