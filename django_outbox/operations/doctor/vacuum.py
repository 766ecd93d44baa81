"""What keeps PostgreSQL from cleaning up behind the outbox: old snapshots, and an autovacuum that is off or behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta

from django_outbox.models import OutboxMessage
from django_outbox.models.storage import STORAGE_PARAMETERS
from django_outbox.operations.doctor.finding import Finding, fault, note, warning
from django_outbox.operations.doctor.subject import Subject

PATIENCE = timedelta(minutes=5)
FAR_TOO_LONG = timedelta(hours=1)
MANY_TRANSACTIONS = 1_000_000
TIMES_BEHIND = 5

_WHY = (
    "What it can still see cannot be removed, from any table of the database: dead entries pile up where the relay looks, "
    "and each look takes longer."
)


def old_snapshots(
    subject: Subject,
    *,
    patience: timedelta = PATIENCE,
    far_too_long: timedelta = FAR_TOO_LONG,
    transactions: int = MANY_TRANSACTIONS,
) -> Iterator[Finding]:
    """Sessions and standbys with a snapshot so old that it holds vacuum back.

    Args:
        subject: what to examine.
        patience: how long a transaction may be open.
        far_too_long: how long it must not be.
        transactions: how many others may be held back where its time is not told: that of a standby never is, that
            of another role's session not to everybody.
    """
    # Of another role's session its kind is hidden as well; autovacuum, whose snapshots do no harm, is no role's.
    found = subject.rows(
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
        if kind == "walsender":
            if held_back >= transactions:
                yield _standby(pid, application, held_back)
        elif seconds is None:
            if held_back >= transactions:
                who = _session(pid, user, application)
                yield warning(f"{who} holds back {held_back:,} transactions.", _WHY, _end(pid, user))
        elif (age := timedelta(seconds=int(seconds))) >= patience:
            find = fault if age >= far_too_long else warning
            who = _session(pid, user, application)
            yield find(f"{who} has had a transaction open for {age} (now {state}).", _WHY, _end(pid, user))


def _session(pid: int, user: str, application: str) -> str:
    return f"Session {pid} of {user}" + (f" ({application})" if application else "")


def _end(pid: int, user: str) -> str:
    return (
        f"SELECT pg_terminate_backend({pid}), once you know what it does; against the next one: "
        f"ALTER ROLE {user} SET idle_in_transaction_session_timeout = '5min'"
    )


def _standby(pid: int, application: str, transactions: int) -> Finding:
    return warning(
        f"The standby {application or pid} holds back {transactions:,} transactions.",
        f"A query runs there for long, and hot_standby_feedback keeps its rows here. {_WHY}",
        "End that query, or set max_standby_streaming_delay and hot_standby_feedback = off there.",
    )


def prepared_transactions(subject: Subject, *, patience: timedelta = PATIENCE) -> Iterator[Finding]:
    """Transactions of two phases whose second one does not come."""
    found = subject.rows(
        "SELECT gid, owner, extract(epoch FROM clock_timestamp() - prepared) FROM pg_prepared_xacts "
        "WHERE database = current_database() ORDER BY prepared"
    )
    for gid, owner, seconds in found:
        if timedelta(seconds=float(seconds)) >= patience:
            yield fault(
                f"The prepared transaction {gid!r} of {owner} has waited for {timedelta(seconds=int(seconds))}.",
                f"It outlives sessions and restarts, and holds its locks. {_WHY}",
                f"ROLLBACK PREPARED '{gid}' (or COMMIT PREPARED), as its transaction manager should have",
            )


def replication_slots(subject: Subject, *, transactions: int = MANY_TRANSACTIONS) -> Iterator[Finding]:
    """Slots that remember an old snapshot of a standby, which may be gone for good."""
    found = subject.rows(
        "SELECT slot_name, active, age(xmin) FROM pg_replication_slots "
        "WHERE xmin IS NOT NULL AND (database IS NULL OR database = current_database()) ORDER BY 3 DESC"
    )
    for name, active, age in found:
        if age >= transactions:
            yield warning(
                f"The replication slot {name} holds back {age:,} transactions"
                + ("." if active else ", and nobody uses it."),
                _WHY,
                "End the long query on its standby."
                if active
                else f"If its standby does not come back: SELECT pg_drop_replication_slot('{name}')",
            )


def autovacuum(subject: Subject, *, times: float = TIMES_BEHIND, least: int | None = None) -> Iterator[Finding]:
    """Autovacuum is off, has not its settings for the outbox, or does not keep up.

    Args:
        subject: what to examine.
        times: how many times more dead rows than make it come are too many.
        least: so many make it come; None takes what the table's settings say.
    """
    for name in ("autovacuum", "track_counts"):
        if subject.value("SELECT current_setting(%s)", name) == "off":
            yield fault(
                f"The server has {name} = off.",
                "Nothing removes dead rows and index entries by itself: each look of the relay walks along all of them.",
                f"ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf()",
            )
    table = OutboxMessage._meta.db_table
    rows, dead, since, options = subject.rows(
        """
        SELECT greatest(c.reltuples, 0), s.n_dead_tup,
               extract(epoch FROM clock_timestamp() - greatest(s.last_vacuum, s.last_autovacuum)),
               coalesce((SELECT jsonb_object_agg(option_name, option_value)::text
                           FROM pg_options_to_table(c.reloptions)), '{}')
          FROM pg_class c JOIN pg_stat_all_tables s ON s.relid = c.oid WHERE c.oid = %s::regclass
        """,
        table,
    )[0]
    yield from _options(table, options)
    if least is None:
        least = int(STORAGE_PARAMETERS["autovacuum_vacuum_threshold"])
    due_at = least + STORAGE_PARAMETERS["autovacuum_vacuum_scale_factor"] * rows
    if dead > times * due_at:
        last = "never was" if since is None else f"was {timedelta(seconds=int(since))} ago"
        yield warning(
            f"{table} has {dead:,} dead rows, and the last vacuum {last}.",
            "Autovacuum does not keep up, or something holds it back: each look of the relay walks along dead entries.",
            f"VACUUM (VERBOSE) {table}; if it says that rows cannot be removed yet, look for an old snapshot. Else more "
            "for autovacuum: autovacuum_max_workers, autovacuum_naptime.",
        )


def _options(table: str, text: str) -> Iterator[Finding]:
    options = json.loads(text)
    if options.get("autovacuum_enabled") in ("false", "off", "0"):
        yield fault(
            f"Autovacuum is switched off for {table}.",
            "Nothing removes its dead rows and index entries: each look of the relay walks along all of them.",
            f"ALTER TABLE {table} RESET (autovacuum_enabled)",
        )
    absent = [name for name in STORAGE_PARAMETERS if name not in options]
    if absent:
        settings = ", ".join(f"{name} = {STORAGE_PARAMETERS[name]}" for name in absent)
        yield note(
            f"{table} is without {', '.join(absent)}.",
            "With millions of messages behind, the server's defaults let a vacuum come after a million changes only.",
            f"ALTER TABLE {table} SET ({settings})",
        )
