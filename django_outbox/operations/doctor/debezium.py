"""What Debezium needs in PostgreSQL: the server's settings, the publication and the replication slot."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django_outbox.conf import settings
from django_outbox.observability.text import size
from django_outbox.operations.connector import TABLE, identifier, publication_sql, row_filter
from django_outbox.operations.doctor.base import Finding, Installation, fault, note, warning
from django_outbox.operations.documentation import documentation
from django_outbox.state.slot import Slot, replication_slot

MUCH_WAL = 2**30
LEAST_VERSION = 15_00_00
_NOT_SENT = "Debezium does not send messages: they wait, or relays send later those with a handler here."
_IN_ORDER = (
    'Until relays have sent what Debezium missed, set PUBLISHER to "relay": later messages of a key pass it otherwise. '
    f'Relays do not send events without a handler here by themselves. See {documentation("debezium")}, "A slot that is lost".'
)
_FILLS_DISK = "The server keeps its WAL for it until the disk is full, or until max_slot_wal_keep_size."
# Of the session that reads a slot; pgoutput has the publications among its options.
_PUBLICATIONS = re.compile(r"\bpublication_names\"? '((?:[^']|'')*)'")
# Columns of a row that Debezium must carry, and how each of the others differs from it.
_CARRIED = {"status": "published", "message_key": "k", "publish_count": 1, "offset": None, "partition": None}
_OTHERS: dict[str, dict[str, Any]] = {
    "pending messages": {"status": "pending", "publish_count": 0},
    "consumed messages": {"status": "consumed"},
    "messages without a key": {"message_key": ""},
    "messages of other services": {"source": ""},
    "messages that a relay has sent": {"partition": 0, "offset": 0},
}


def debezium(installation: Installation) -> Iterator[Finding]:
    """What keeps Debezium from sending messages, or makes it send others; and a slot that nobody needs any more."""
    slot = replication_slot(installation.using)
    if settings.publisher != "debezium":
        if slot.present and not slot.active:
            yield warning(
                f'The replication slot {slot.name} exists, nothing reads it, and PUBLISHER is "{settings.publisher}".',
                f"{_FILLS_DISK} {_kept(slot)}",
                f"If Debezium is to send messages, start its connector, then set PUBLISHER. If not: {_drop(slot)}",
            )
        return
    yield from _server(installation)
    if _version(installation) >= LEAST_VERSION:
        yield from _publication(installation)
    yield from _slot(installation, slot)


def _version(installation: Installation) -> int:
    return int(installation.value("SELECT current_setting('server_version_num')"))


def _server(installation: Installation) -> Iterator[Finding]:
    if _version(installation) < LEAST_VERSION:
        version = installation.value("SELECT current_setting('server_version')")
        yield fault(
            f"The server is PostgreSQL {version}; Debezium needs 15 or later here.",
            "Earlier versions have no row filters, which keep Debezium from sending what relays send.",
            'Upgrade the server, or set PUBLISHER to "relay".',
        )
    level = installation.value("SELECT current_setting('wal_level')")
    if level != "logical":
        yield fault(
            f"The server has wal_level = {level}.",
            f"Debezium cannot read the WAL. {_NOT_SENT}",
            "ALTER SYSTEM SET wal_level = logical, then restart the server.",
        )


def _publication(installation: Installation) -> Iterator[Finding]:
    name = settings.debezium.publication
    found = installation.rows(
        "SELECT pubinsert, pubupdate OR pubdelete OR pubtruncate, puballtables FROM pg_publication WHERE pubname = %s",
        name,
    )
    if not found:
        yield fault(
            f"The publication {name} does not exist.",
            f"Debezium stops with an error. {_NOT_SENT}",
            f"Create it: manage.py outbox_debezium --sql{installation.database_option}",
        )
        return
    ((inserts, others, of_all_tables),) = found
    only_inserts = f"ALTER PUBLICATION {identifier(name)} SET (publish = 'insert')"
    if not inserts:
        yield fault(
            f"The publication {name} does not publish inserts.",
            _NOT_SENT,
            only_inserts,
        )
    elif others:
        yield warning(
            f"The publication {name} publishes more than inserts.",
            "Debezium also reads each later change of a message, and drops it.",
            only_inserts,
        )
    if of_all_tables:
        # One transaction: Debezium fails at what is written while there is no publication. SET TABLE is not allowed.
        remedy = f"BEGIN; DROP PUBLICATION {identifier(name)}; {publication_sql(TABLE)}; COMMIT"
    else:
        remedy = f"ALTER PUBLICATION {identifier(name)} SET TABLE {TABLE} WHERE ({row_filter()})"
    yield from _rows_of(installation, name, remedy)


def _rows_of(installation: Installation, publication: str, remedy: str) -> Iterator[Finding]:
    """Whether the publication has the rows for Debezium, and no others."""
    found = installation.rows(
        "SELECT published.rowfilter FROM pg_publication_tables AS published "
        "JOIN pg_namespace AS schema ON schema.nspname = published.schemaname "
        "JOIN pg_class AS class ON class.relnamespace = schema.oid AND class.relname = published.tablename "
        "WHERE published.pubname = %s AND class.oid = %s::regclass",
        *(publication, TABLE),
    )
    if not found:
        yield fault(f"The publication {publication} does not have the table {TABLE}.", _NOT_SENT, remedy)
    elif found[0][0] is None:
        yield fault(
            f"The publication {publication} has no row filter.",
            "Debezium sends what relays send as well, and cannot write all of it: it stops at a message without a key.",
            remedy,
        )
    elif not _includes(installation, found[0][0], {}):
        yield fault(
            f"The row filter of the publication {publication} excludes messages of {settings.source!r}.",
            _NOT_SENT,
            remedy,
        )
    elif more := [name for name, change in _OTHERS.items() if _includes(installation, found[0][0], change)]:
        yield fault(
            f"The row filter of the publication {publication} includes {', '.join(more)}.",
            "Debezium sends them as well as the relay or service that they are for.",
            remedy,
        )


def _includes(installation: Installation, condition: str, change: dict[str, Any]) -> bool:
    """Whether a row filter is true of a message with this change."""
    message = {"source": settings.source, **_CARRIED, **change}
    condition = condition.replace("%", "%%")
    query = f"SELECT coalesce({condition}, false) FROM jsonb_populate_record(NULL::{TABLE}, %s::jsonb) AS message"  # noqa: S608
    return bool(installation.value(query, json.dumps(message)))


def _slot(installation: Installation, slot: Slot) -> Iterator[Finding]:
    if not slot.present:
        yield fault(
            f"The replication slot {slot.name} does not exist.",
            f"Debezium starts with what is written after it is created. {_NOT_SENT}",
            f"Create it: manage.py outbox_debezium --sql{installation.database_option}. {_IN_ORDER}",
        )
        return
    home = installation.value("SELECT current_database()")
    if (slot.plugin, slot.database) != ("pgoutput", home):
        made_for = f"the plugin {slot.plugin} in the database {slot.database}" if slot.plugin else "a standby"
        yield fault(
            f"The replication slot {slot.name} was created for {made_for}, not for pgoutput in {home}.",
            _NOT_SENT,
            'Name another slot in OUTBOX["DEBEZIUM"], or drop this one and create it again.',
        )
    elif slot.wal_status in ("lost", "unreserved"):
        has = "has removed" if slot.wal_status == "lost" else "is about to remove"
        yield fault(
            f"The server {has} WAL that the replication slot {slot.name} needs (wal_status = {slot.wal_status}).",
            f"Debezium was too far behind for max_slot_wal_keep_size. {_NOT_SENT}",
            f"{_drop(slot)}, create it again, and reset the connector's offsets. {_IN_ORDER}"
            if slot.wal_status == "lost"
            else "Start the connector, or raise max_slot_wal_keep_size.",
        )
    elif not slot.active:
        age = "" if slot.lag_seconds is None else f", for {timedelta(seconds=int(slot.lag_seconds))} now"
        yield fault(
            f"Nothing reads the replication slot {slot.name}{age}.",
            f"{_NOT_SENT} {_FILLS_DISK} {_kept(slot)}",
            "Start the connector. Its state: GET /connectors/NAME/status of Kafka Connect.",
        )
    else:
        yield from _reader(installation, slot)
        yield from _retained(installation, slot)


def _reader(installation: Installation, slot: Slot) -> Iterator[Finding]:
    """A slot that another connector reads. A role without pg_read_all_stats does not see what other sessions do."""
    found = installation.rows(
        "SELECT session.pid, session.usename, session.application_name, session.query FROM pg_replication_slots AS slot "
        "JOIN pg_stat_activity AS session ON session.pid = slot.active_pid WHERE slot.slot_name = %s",
        slot.name,
    )
    for pid, role, application, query in found:
        names = _PUBLICATIONS.search(query or "")
        if names is None or settings.debezium.publication in re.split(r"[\s,\"]+", names[1]):
            continue
        yield fault(
            f"The replication slot {slot.name} is taken: session {pid} of {role} ({application}) reads it for the "
            f"publication {names[1]}, not {settings.debezium.publication}.",
            f"A slot serves one connector. {_NOT_SENT}",
            'Give each connector a slot of its own: change the other one, or OUTBOX["DEBEZIUM"]["SLOT"].',
        )


def _retained(installation: Installation, slot: Slot) -> Iterator[Finding]:
    if slot.retained_bytes is not None and slot.retained_bytes >= MUCH_WAL:
        yield warning(
            f"The server keeps {size(slot.retained_bytes)} of WAL for the replication slot {slot.name}.",
            "Debezium is far behind, or a transaction has been open for long. When the disk is full, the server stops.",
            "Look into the log of Kafka Connect; limit what the server keeps with max_slot_wal_keep_size.",
        )
    if installation.value("SELECT setting::int FROM pg_settings WHERE name = 'max_slot_wal_keep_size'") < 0:
        yield note(
            "The server has max_slot_wal_keep_size = -1: no limit.",
            "If Debezium stops for long, the WAL that is kept for it fills the disk, and the server stops.",
            "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB' (less than the disk has free); SELECT pg_reload_conf()",
        )


def _kept(slot: Slot) -> str:
    return "" if slot.retained_bytes is None else f"So far: {size(slot.retained_bytes)}."


def _drop(slot: Slot) -> str:
    return f"SELECT pg_drop_replication_slot('{slot.name}')"
