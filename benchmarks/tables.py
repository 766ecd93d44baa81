"""Tables between two measurements: emptied, and settled, so that nothing of the one falls into the other."""

from __future__ import annotations

from django.db import connection


def empty(*tables: str) -> None:
    """Take all rows away. Ids go on: no record of an earlier run is taken for one of the next."""
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {', '.join(tables)} CASCADE")
    settle(tables[0])


def settle(table: str) -> None:
    """Let no vacuum, no stale statistics and no pending checkpoint fall into the run that follows."""
    with connection.cursor() as cursor:
        cursor.execute(f"VACUUM ANALYZE {table}")
        cursor.execute("SELECT pg_has_role(current_user, 'pg_checkpoint', 'MEMBER')")
        if cursor.fetchone()[0]:
            cursor.execute("CHECKPOINT")
