"""PostgreSQL's vacuum: what holds it back, and whether autovacuum is on and keeps up."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from django_outbox.models import OutboxMessage
from django_outbox.models.storage import STORAGE_PARAMETERS
from django_outbox.operations.doctor.base import Finding, Installation, fault, note, warning

OLD = timedelta(minutes=5)
VERY_OLD = timedelta(hours=1)
MANY_TRANSACTIONS = 1_000_000
TIMES_BEHIND = 5

_WHY = (
    "Vacuum cannot remove rows that it can still see, in any table of the database: dead index entries pile up where the "
    "relay polls, and each poll takes longer."
)
_SLOW_POLLS = "each poll of the relay reads all of them."


def old_snapshots(installation: Installation) -> Iterator[Finding]:
    """Sessions and standbys whose snapshot is old enough to hold vacuum back.

    Where the age is unknown, later transactions are counted: that of a standby always is, that of another role's
    session may be hidden.
    """
    # Another role's session hides its type too. Autovacuum has no role, and its snapshots are harmless.
    found = installation.rows(
        """
        SELECT pid, coalesce(backend_type, CASE WHEN datname IS NULL THEN 'walsender' ELSE 'client backend' END),
               quote_ident(usename), coalesce(application_name, ''), state,
               extract(epoch FROM clock_timestamp() - xact_start),
               greatest(coalesce(age(backend_xmin), 0), coalesce(age(backend_xid), 0))
          FROM pg_stat_activity
         WHERE (datname = current_database() OR datname IS NULL) AND pid <> pg_backend_pid()
           AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
           AND usename IS NOT NULL AND coalesce(backend_type, 'client backend') IN ('client backend', 'walsender')
         ORDER BY 7 DESC
        """
    )
    for pid, kind, user, application, state, seconds, held_back in found:
        session = f"Session {pid} of {user}" + (f" ({application})" if application else "")
        if kind == "walsender":
            if held_back >= MANY_TRANSACTIONS:
                yield warning(
                    f"The standby {application or pid} holds back {held_back:,} transactions.",
                    f"A long query runs there, and hot_standby_feedback keeps its rows here. {_WHY}",
                    "End that query, or set max_standby_streaming_delay and hot_standby_feedback = off there.",
                )
        elif seconds is None:
            if held_back >= MANY_TRANSACTIONS:
                yield warning(f"{session} holds back {held_back:,} transactions.", _WHY, _terminate(pid, user))
        elif (age := timedelta(seconds=int(seconds))) >= OLD:
            find = fault if age >= VERY_OLD else warning
            yield find(f"{session} has had a transaction open for {age} (now {state}).", _WHY, _terminate(pid, user))


def _terminate(pid: int, user: str) -> str:
    return (
        f"SELECT pg_terminate_backend({pid}), once you know what it does. To prevent it: "
        f"ALTER ROLE {user} SET idle_in_transaction_session_timeout = '5min'"
    )


def prepared_transactions(installation: Installation) -> Iterator[Finding]:
    """Two-phase transactions that were neither committed nor rolled back."""
    found = installation.rows(
        "SELECT gid, owner, extract(epoch FROM clock_timestamp() - prepared) FROM pg_prepared_xacts "
        "WHERE database = current_database() ORDER BY prepared"
    )
    for gid, owner, seconds in found:
        if timedelta(seconds=float(seconds)) >= OLD:
            yield fault(
                f"The prepared transaction {gid!r} of {owner} has waited for {timedelta(seconds=int(seconds))}.",
                f"It survives sessions and restarts, and keeps its locks. {_WHY}",
                f"ROLLBACK PREPARED '{gid}' (or COMMIT PREPARED), as its transaction manager should have done",
            )


def replication_slots(installation: Installation) -> Iterator[Finding]:
    """Replication slots with the old snapshot of a standby, which may be gone for good."""
    found = installation.rows(
        "SELECT slot_name, active, age(xmin) FROM pg_replication_slots "
        "WHERE xmin IS NOT NULL AND (database IS NULL OR database = current_database()) ORDER BY 3 DESC"
    )
    for name, active, age in found:
        if age < MANY_TRANSACTIONS:
            continue
        unused = "" if active else ", and no standby uses it"
        yield warning(
            f"The replication slot {name} holds back {age:,} transactions{unused}.",
            _WHY,
            "End the long query on its standby."
            if active
            else f"If its standby does not come back: SELECT pg_drop_replication_slot('{name}')",
        )


def autovacuum(installation: Installation) -> Iterator[Finding]:
    """Autovacuum is off, lacks its settings for the outbox, or does not keep up."""
    for name in ("autovacuum", "track_counts"):
        if installation.value("SELECT current_setting(%s)", name) == "off":
            yield fault(
                f"The server has {name} = off.",
                f"Nothing removes dead rows and index entries: {_SLOW_POLLS}",
                f"ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf()",
            )
    table = OutboxMessage._meta.db_table
    rows, dead, since, options = installation.rows(
        """
        SELECT greatest(c.reltuples, 0), s.n_dead_tup,
               extract(epoch FROM clock_timestamp() - greatest(s.last_vacuum, s.last_autovacuum)),
               coalesce(c.reloptions, '{}')
          FROM pg_class c JOIN pg_stat_all_tables s ON s.relid = c.oid WHERE c.oid = %s::regclass
        """,
        table,
    )[0]
    yield from _table_options(table, dict(option.split("=", 1) for option in options))
    due_at = (
        STORAGE_PARAMETERS["autovacuum_vacuum_threshold"] + STORAGE_PARAMETERS["autovacuum_vacuum_scale_factor"] * rows
    )
    if dead > TIMES_BEHIND * due_at:
        last = "it was never vacuumed" if since is None else f"the last vacuum was {timedelta(seconds=int(since))} ago"
        yield warning(
            f"{table} has {dead:,} dead rows; {last}.",
            f"Autovacuum does not keep up, or something holds it back: {_SLOW_POLLS}",
            f"VACUUM (VERBOSE) {table}. If it reports rows that cannot be removed yet, look for an old snapshot. "
            "Otherwise give autovacuum more resources: autovacuum_max_workers, autovacuum_naptime.",
        )


def _table_options(table: str, options: dict[str, str]) -> Iterator[Finding]:
    if options.get("autovacuum_enabled") in ("false", "off", "0"):
        yield fault(
            f"Autovacuum is switched off for {table}.",
            f"Nothing removes its dead rows and index entries: {_SLOW_POLLS}",
            f"ALTER TABLE {table} RESET (autovacuum_enabled)",
        )
    absent = [name for name in STORAGE_PARAMETERS if name not in options]
    if absent:
        settings = ", ".join(f"{name} = {STORAGE_PARAMETERS[name]}" for name in absent)
        yield note(
            f"{table} lacks the storage parameters {', '.join(absent)}.",
            "With millions of rows, the server's defaults start a vacuum only after a million changes.",
            f"ALTER TABLE {table} SET ({settings})",
        )
