"""What the server does to sessions: deadlines that are shorter than the broker's, and none for those that vanished."""

from __future__ import annotations

from collections.abc import Iterator

from django_outbox.conf import settings
from django_outbox.operations.doctor.finding import Finding, fault, note, warning
from django_outbox.operations.doctor.subject import Subject
from django_outbox.worker.notify import Listener
from django_outbox.worker.pooling import is_behind_pooler, prepares

LONG_KEEPALIVE_SECONDS = 900

# By setting of PostgreSQL, in milliseconds: those that end a relay's transaction while it waits for the broker ...
_ENDS_TRANSACTIONS = ("idle_in_transaction_session_timeout", "transaction_timeout")
# ... and those that end a consumer's wait for the rows that a relay has locked.
_ENDS_WAITS = ("statement_timeout", "lock_timeout")


def deadlines(subject: Subject) -> Iterator[Finding]:
    """Deadlines of the server within which the broker need not have answered."""
    patience = settings.publish_timeout
    given = _given_deadlines(subject)
    for name, seconds in given.items():
        if not 0 < seconds <= patience:
            continue
        if name in (*_ENDS_TRANSACTIONS, "wait_timeout"):
            yield fault(
                f"The server has {name} = {seconds:g} s, and PUBLISH_TIMEOUT is {patience:g} s.",
                "A relay's transaction is open while it waits for the broker. If the broker is slow, the server ends it "
                "after the batch was sent: all of it is sent again.",
                _set(subject, name, patience),
            )
        else:
            yield warning(
                f"The server has {name} = {seconds:g} s, and PUBLISH_TIMEOUT is {patience:g} s.",
                "A consumer that is faster than the relay waits for rows that the relay has locked, for as long as that "
                "waits for the broker. The server cuts this short, and the work begins anew.",
                _set(subject, name, patience),
            )


def _given_deadlines(subject: Subject) -> dict[str, float]:
    """In seconds, as a new session has them; 0: none."""
    if subject.connection.vendor == "mysql":
        return {
            "wait_timeout": float(subject.value("SELECT @@wait_timeout")),
            "innodb_lock_wait_timeout": float(subject.value("SELECT @@innodb_lock_wait_timeout")),
        }
    rows = subject.rows(
        "SELECT name, reset_val FROM pg_settings WHERE name = ANY(%s)", [*_ENDS_TRANSACTIONS, *_ENDS_WAITS]
    )
    return {name: int(milliseconds) / 1000 for name, milliseconds in rows}


def _set(subject: Subject, name: str, patience: float) -> str:
    if subject.connection.vendor == "mysql":
        return f"SET GLOBAL {name} = {int(patience * 3)}, and the same in the server's configuration"
    role = subject.value("SELECT quote_ident(current_user)")
    return f"ALTER ROLE {role} SET {name} = '{int(patience * 3)}s', or a role of their own for relay and consumer"


def vanished_sessions(subject: Subject, *, is_remote: bool | None = None) -> Iterator[Finding]:
    """Nothing ends the transaction of a machine that lost its power or its network.

    Args:
        subject: what to examine.
        is_remote: whether the server is on another machine; None asks it.
    """
    if is_remote is None:
        is_remote = bool(
            subject.value(
                "SELECT coalesce(inet_client_addr() <> inet_server_addr() AND NOT inet_client_addr() <<= "
                "'127.0.0.0/8'::inet, false)"
            )
        )
    known = dict(
        subject.rows(
            "SELECT name, reset_val::bigint FROM pg_settings "
            "WHERE name IN ('idle_in_transaction_session_timeout', 'tcp_keepalives_idle')"
        )
    )
    keepalive = known["tcp_keepalives_idle"]
    if not is_remote or known["idle_in_transaction_session_timeout"] or 0 < keepalive <= LONG_KEEPALIVE_SECONDS:
        return
    after = f"{keepalive:,} s" if keepalive else "what its system says, on Linux two hours"
    yield note(
        f"The server notices after {after} that a client's machine is gone.",
        "So long the transaction of a relay that lost its power or its network holds its batch: these messages wait, "
        "and what comes after them in their keys. A process that is killed frees its rows at once.",
        f"ALTER SYSTEM SET tcp_keepalives_idle = 60; SELECT pg_reload_conf(). Or {_idle(subject)}",
    )


def _idle(subject: Subject) -> str:
    role = subject.value("SELECT quote_ident(current_user)")
    return f"ALTER ROLE {role} SET idle_in_transaction_session_timeout = '{int(settings.publish_timeout * 6)}s'"


def notifications(subject: Subject) -> Iterator[Finding]:
    """NOTIFY is wanted and does not arrive, as behind a pooler in transaction mode. Sends one, to see."""
    if not settings.notify:
        return
    listener = Listener(subject.using)
    try:
        arrives = listener.open()
    finally:
        listener.close()
    if not arrives:
        yield warning(
            'OUTBOX["NOTIFY"] is True, and a notification does not arrive here.',
            "A pooler in transaction mode takes LISTEN and delivers nothing. The relay polls instead: messages wait for up "
            f"to POLL_INTERVAL, {settings.poll_interval:g} s.",
            "Run the relay with an alias in DATABASES that goes to the server itself (outbox_relay --database ALIAS), or "
            "set NOTIFY to False.",
        )


def prepared_statements(subject: Subject) -> Iterator[Finding]:
    """Statements are to be prepared, and a pooler may give each transaction another session."""
    if prepares(subject.connection) and is_behind_pooler(subject.connection):
        yield warning(
            f"The database {subject.using!r} is behind a pooler such as PgBouncer, and its OPTIONS have prepare_threshold.",
            "In transaction mode (transaction pooling), a transaction may meet another session, where prepared statements "
            "are unknown or those of other clients. Relay and consumer prepare none; other processes fail now and then.",
            f'Remove "prepare_threshold" from DATABASES["{subject.using}"]["OPTIONS"], or let the pooler keep track of '
            "prepared statements: PgBouncer 1.21 or later, with max_prepared_statements above 0.",
        )
