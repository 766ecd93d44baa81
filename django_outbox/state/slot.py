"""The replication slot from which Debezium reads the outbox, as PostgreSQL reports it."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import connections

from django_outbox.conf import settings

# ``to_jsonb`` because columns differ between versions: inactive_since is one of PostgreSQL 17. A role without
# pg_read_all_stats does not see the lag in seconds.
_SLOT = """
    SELECT slot.active, slot.slot_type, slot.database, slot.plugin, slot.wal_status,
           (position - slot.confirmed_flush_lsn)::bigint, (position - slot.restart_lsn)::bigint, slot.safe_wal_size,
           extract(epoch FROM CASE
               WHEN slot.active THEN session.flush_lag
               ELSE clock_timestamp() - (to_jsonb(slot) ->> 'inactive_since')::timestamptz
           END)::float8
      FROM pg_replication_slots AS slot
     CROSS JOIN LATERAL (
           SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS position
           ) AS wal
      LEFT JOIN pg_stat_replication AS session ON session.pid = slot.active_pid
     WHERE slot.slot_name = %s
"""


@dataclass(frozen=True, slots=True)
class Slot:
    """A replication slot.

    Attributes:
        present: whether it exists. If not, everything else is unknown.
        active: whether a connector reads it.
        wal_status: "reserved" or "extended" while the server keeps what the slot needs, "unreserved" if it may soon remove
            some, "lost" if it has.
        lag_bytes: WAL that the connector has not confirmed yet.
        lag_seconds: how long ago that was written, if a connector reads the slot; otherwise since when none does. None if
            the server does not say.
        retained_bytes: WAL that the server keeps for the slot.
        left_bytes: WAL that may be written before the server removes what the slot needs; None: no limit.
        kind, database, plugin: what the slot was created for.
    """

    name: str
    present: bool = False
    active: bool = False
    wal_status: str | None = None
    lag_bytes: int | None = None
    lag_seconds: float | None = None
    retained_bytes: int | None = None
    left_bytes: int | None = None
    kind: str | None = None
    database: str | None = None
    plugin: str | None = None

    @property
    def is_lost(self) -> bool:
        """True if nothing can be read from it: it does not exist, or the server has removed WAL that it needs."""
        return not self.present or self.wal_status == "lost"


def replication_slot(using: str) -> Slot:
    """The slot of the settings."""
    name = settings.debezium.slot
    with connections[using].cursor() as cursor:
        cursor.execute(_SLOT, [name])
        row = cursor.fetchone()
    if row is None:
        return Slot(name)
    active, kind, database, plugin, wal_status, lag, retained, left, seconds = row
    return Slot(name, True, active, wal_status, lag, seconds, retained, left, kind, database, plugin)


def debezium_slot(using: str) -> Slot | None:
    """The same, or None if Debezium does not publish the messages of this database."""
    if settings.publisher != "debezium" or connections[using].vendor != "postgresql":
        return None
    return replication_slot(using)
