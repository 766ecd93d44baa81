"""Database sessions: server timeouts, lost clients, notifications and poolers."""

from __future__ import annotations

from collections.abc import Iterator

from django_outbox.conf import settings
from django_outbox.consumer.concurrency import OTHER_CONNECTIONS
from django_outbox.models import Worker
from django_outbox.models.fields import DatabaseNow
from django_outbox.operations.doctor.base import Finding, Installation, fault, note, warning
from django_outbox.worker.heartbeat import ALIVE
from django_outbox.worker.notify import Listener
from django_outbox.worker.pooling import is_behind_pooler, prepares

LONG_KEEPALIVE_SECONDS = 900
LOOP_AND_HEARTBEAT = 2  # connections
IS_REMOTE = """
    SELECT coalesce(
        inet_client_addr() <> inet_server_addr() AND NOT inet_client_addr() <<= '127.0.0.0/8'::inet, false)
"""

# Settings of PostgreSQL that end a relay's transaction while it waits for the broker.
_END_TRANSACTIONS = ("idle_in_transaction_session_timeout", "transaction_timeout")


def deadlines(installation: Installation) -> Iterator[Finding]:
    """Server timeouts that are not longer than PUBLISH_TIMEOUT."""
    publish_timeout = settings.publish_timeout
    for name, seconds in _server_timeouts(installation).items():
        if not 0 < seconds <= publish_timeout:
            continue
        summary = f"The server has {name} = {seconds:g} s, and PUBLISH_TIMEOUT is {publish_timeout:g} s."
        remedy = _set(installation, name, publish_timeout)
        if name in (*_END_TRANSACTIONS, "wait_timeout"):
            yield fault(
                summary,
                "A relay's transaction stays open while it waits for the broker. If the broker is slow, the server ends "
                "the transaction after the batch was sent, and the whole batch is sent again.",
                remedy,
            )
        else:
            yield warning(
                summary,
                "A consumer may wait for rows that a relay has locked, as long as the relay waits for the broker. The "
                "server ends this wait early, and the consumer starts over.",
                remedy,
            )


def _server_timeouts(installation: Installation) -> dict[str, float]:
    """Timeouts of a new session, in seconds; 0 means none."""
    if installation.connection.vendor == "mysql":
        return {
            "wait_timeout": float(installation.value("SELECT @@wait_timeout")),
            "innodb_lock_wait_timeout": float(installation.value("SELECT @@innodb_lock_wait_timeout")),
        }
    names = [*_END_TRANSACTIONS, "statement_timeout", "lock_timeout"]
    rows = installation.rows("SELECT name, reset_val FROM pg_settings WHERE name = ANY(%s)", names)
    return {name: int(milliseconds) / 1000 for name, milliseconds in rows}


def _set(installation: Installation, name: str, publish_timeout: float) -> str:
    seconds = int(publish_timeout * 3)
    if installation.connection.vendor == "mysql":
        return f"SET GLOBAL {name} = {seconds}, and the same in the server's configuration"
    role = installation.value("SELECT quote_ident(current_user)")
    return f"ALTER ROLE {role} SET {name} = '{seconds}s', or a separate role for relay and consumer"


def vanished_sessions(installation: Installation) -> Iterator[Finding]:
    """The server is on another machine and takes long to notice that a client's machine is gone."""
    is_remote = installation.value(IS_REMOTE)
    known = dict(
        installation.rows(
            "SELECT name, reset_val::bigint FROM pg_settings "
            "WHERE name IN ('idle_in_transaction_session_timeout', 'tcp_keepalives_idle')"
        )
    )
    keepalive = known["tcp_keepalives_idle"]
    if not is_remote or known["idle_in_transaction_session_timeout"] or 0 < keepalive <= LONG_KEEPALIVE_SECONDS:
        return
    after = f"{keepalive:,} s" if keepalive else "the time set by its operating system (Linux: two hours)"
    role = installation.value("SELECT quote_ident(current_user)")
    idle = int(settings.publish_timeout * 6)
    yield note(
        f"The server notices only after {after} that a client's machine is gone.",
        "Until then, the transaction of a relay that lost power or network keeps its batch locked: these messages wait, "
        "and later messages with the same keys. A killed process frees its rows at once.",
        "ALTER SYSTEM SET tcp_keepalives_idle = 60; SELECT pg_reload_conf(). "
        f"Or ALTER ROLE {role} SET idle_in_transaction_session_timeout = '{idle}s'",
    )


def connections(installation: Installation) -> Iterator[Finding]:
    """Running workers need more connections than the server allows."""
    alive = Worker.objects.using(installation.using).filter(last_seen_at__gte=DatabaseNow() - ALIVE)
    lanes = [each.lanes for each in alive if each.kind == Worker.Kind.CONSUMER]
    consumers = sum((each if each > 1 else 0) + OTHER_CONNECTIONS for each in lanes)
    relays = (len(alive) - len(lanes)) * (LOOP_AND_HEARTBEAT + settings.notify)
    needed, (limit, reserved) = consumers + relays, _connection_limit(installation)
    if needed <= limit - reserved:
        return
    raised = f"max_connections to more than {needed + reserved}, with room for the application"
    if installation.connection.vendor == "mysql":
        how = "SET GLOBAL max_connections, and the same in the server's configuration"
    else:
        how = "ALTER SYSTEM SET max_connections, then restart the server"
    yield fault(
        f"Running workers need up to {needed} connections ({consumers} for consumers, {relays} for relays), and the "
        f"server allows {limit - reserved}.",
        "When lanes are busy, the server refuses connections, to the application as well: handlers and requests fail.",
        f"Lower CONCURRENCY or run fewer consumers; or raise {raised}: {how}",
    )


def _connection_limit(installation: Installation) -> tuple[int, int]:
    """How many connections the server allows, and how many of these it reserves for administrators."""
    if installation.connection.vendor == "mysql":
        return int(installation.value("SELECT @@GLOBAL.max_connections")), 0  # reserves one beyond these
    reserved = installation.value(
        "SELECT sum(setting::int) FROM pg_settings "
        "WHERE name IN ('superuser_reserved_connections', 'reserved_connections')"
    )
    return int(installation.value("SELECT current_setting('max_connections')")), int(reserved)


def notifications(installation: Installation) -> Iterator[Finding]:
    """NOTIFY is on, but notifications do not arrive. Sends one to find out."""
    if not settings.notify:
        return
    listener = Listener(installation.using)
    try:
        arrives = listener.open()
    finally:
        listener.close()
    if not arrives:
        yield warning(
            'OUTBOX["NOTIFY"] is True, but notifications do not arrive here.',
            "A pooler in transaction mode accepts LISTEN but delivers nothing. The relay polls instead: messages wait "
            f"for up to POLL_INTERVAL, {settings.poll_interval:g} s.",
            "Run the relay with an alias in DATABASES that connects to the server directly (outbox_relay --database "
            "ALIAS), or set NOTIFY to False.",
        )


def prepared_statements(installation: Installation) -> Iterator[Finding]:
    """Statements are prepared although a pooler may switch sessions between transactions."""
    using = installation.using
    if prepares(installation.connection) and is_behind_pooler(installation.connection):
        yield warning(
            f"The database {using!r} is behind a pooler such as PgBouncer, and its OPTIONS have prepare_threshold.",
            "In transaction mode, each transaction may use another session, where prepared statements are unknown or "
            "belong to other clients. Relay and consumer prepare none; other processes fail now and then.",
            f'Remove "prepare_threshold" from DATABASES["{using}"]["OPTIONS"], or let the pooler track prepared '
            "statements: PgBouncer 1.21 or later, with max_prepared_statements above 0.",
        )
