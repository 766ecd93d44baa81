"""The configuration of Debezium's connector, and the SQL that prepares PostgreSQL for it.

The connector's records equal the relay's (``events/writer.py``), apart from the order of the headers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from django_outbox.brokers.limits import HEADROOM, largest_payload
from django_outbox.conf import settings
from django_outbox.events.parsing import CONTENT_TYPE
from django_outbox.events.writer import JSON
from django_outbox.models import OutboxMessage

TABLE = OutboxMessage._meta.db_table
PASSWORD = "${env:OUTBOX_DEBEZIUM_PASSWORD}"  # noqa: S105  # a reference
POLL_MILLISECONDS = 10
HEARTBEAT_SECONDS = 10
HEARTBEAT_TOPIC = "__debezium-heartbeat"
HEARTBEAT_RETENTION_SECONDS = 86400
# Each ten seconds apart. The server frees the slot of a connector whose machine is gone after wal_sender_timeout, 60 s.
SLOT_RETRIES = 12

# Columns that become headers; see events/writer.py.
HEADERS = {
    "event_id": "ce_id",
    "source": "ce_source",
    "event_type": "ce_type",
    "created_at": "ce_time",
    "message_key": "ce_subject",
    "id": "ce_outboxid",
    "publish_count": "ce_outboxattempt",
    "event_version": "ce_eventversion",
}
_TRANSFORMS = "org.apache.kafka.connect.transforms"
_TEXT = "org.apache.kafka.connect.storage.StringConverter"


@dataclass(frozen=True, slots=True)
class Access:
    """How the connector reaches the database.

    Attributes:
        host, port: of the server itself: a pooler cannot replicate.
        role: the name of its role.
        password: a reference to a config provider of Kafka Connect, such as ``${env:NAME}``.
    """

    host: str
    port: str
    database: str
    schema: str
    role: str
    password: str = PASSWORD
    sslmode: str = ""

    @classmethod
    def of(cls, using: str, *, schema: str = "public", **given: Any) -> Access:
        """Access by ``DATABASES``, except for what is given.

        Raises:
            ImproperlyConfigured: the database is not PostgreSQL, or Debezium cannot write the records of ``WIRE_FORMAT``.
        """
        connection = connections[using]
        if connection.vendor != "postgresql":
            raise ImproperlyConfigured(
                f"Debezium carries the outbox of PostgreSQL only, and the database {using!r} is {connection.display_name}."
            )
        if settings.wire_format != "cloudevents":
            raise ImproperlyConfigured(
                'Debezium cannot write envelopes: set OUTBOX["WIRE_FORMAT"] to "cloudevents". Consumers read both.'
            )
        database: dict[str, Any] = connection.settings_dict
        host = str(database.get("HOST") or "")
        known = {
            "host": "localhost" if not host or host.startswith("/") else host.split(",")[0],
            "port": str(database.get("PORT") or "5432").split(",")[0],
            "database": str(database["NAME"]),
            "role": settings.debezium.slot,
            "sslmode": str(database.get("OPTIONS", {}).get("sslmode", "")),
        }
        return cls(schema=schema, **(known | {name: str(value) for name, value in given.items() if value is not None}))


def connector_config(access: Access) -> dict[str, str]:
    """The configuration, as Kafka Connect takes it at ``PUT /connectors/NAME/config``."""
    slot, payload = settings.debezium.slot, largest_payload()
    config = {
        "name": slot,
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        "database.hostname": access.host,
        "database.port": access.port,
        "database.dbname": access.database,
        "database.user": access.role,
        "database.password": access.password,
        "database.sslmode": access.sslmode,
        "topic.prefix": slot,
        "plugin.name": "pgoutput",
        "slot.name": slot,
        "slot.max.retries": str(SLOT_RETRIES),
        "publication.name": settings.debezium.publication,
        "publication.autocreate.mode": "disabled",
        "table.include.list": f"{access.schema}.{TABLE}",
        "snapshot.mode": "no_data",
        "poll.interval.ms": str(POLL_MILLISECONDS),
        "skipped.operations": "u,d,t",
        "tombstones.on.delete": "false",
        "extended.headers.enabled": "false",
        "heartbeat.interval.ms": str(HEARTBEAT_SECONDS * 1000),
        "heartbeat.action.query": "SELECT pg_logical_emit_message(false, 'django_outbox', '')",
        "message.prefix.exclude.list": ".*",
        "topic.heartbeat.prefix": HEARTBEAT_TOPIC,
        "topic.creation.groups": "heartbeat",
        "topic.creation.heartbeat.include": f"{HEARTBEAT_TOPIC}.*",
        "topic.creation.heartbeat.partitions": "1",
        "topic.creation.heartbeat.replication.factor": "-1",
        "topic.creation.heartbeat.retention.ms": str(HEARTBEAT_RETENTION_SECONDS * 1000),
        "topic.creation.default.partitions": "-1",
        "topic.creation.default.replication.factor": "-1",
        "key.converter": _TEXT,
        "value.converter": _TEXT,
        "header.converter": _TEXT,
        "errors.tolerance": "none",
        "producer.override.acks": "all",
        "producer.override.enable.idempotence": "true",
        # With more, a broker that is still creating a partition may refuse its first batch and store the second one.
        # Idempotence does not prevent that: the broker knows nothing of the producer there.
        "producer.override.max.in.flight.requests.per.connection": "1",
        "producer.override.batch.size": "131072",
        # PostgreSQL may write a payload as longer JSON than publish() has checked.
        "producer.override.max.request.size": "" if payload is None else str(2 * (payload + HEADROOM)),
        **_transforms(),
    }
    return {name: value for name, value in config.items() if value}


def _transforms() -> dict[str, str]:
    """The transformations that make a record of a row."""
    return {
        "transforms": "version,versionHeader,contentType,outbox,id",
        # Two steps: InsertHeader would write 1.0 as the number 1.
        "transforms.version.type": f"{_TRANSFORMS}.InsertField$Value",
        "transforms.version.static.field": "ce_specversion",
        "transforms.version.static.value": "1.0",
        "transforms.versionHeader.type": f"{_TRANSFORMS}.HeaderFrom$Value",
        "transforms.versionHeader.fields": "ce_specversion",
        "transforms.versionHeader.headers": "ce_specversion",
        "transforms.versionHeader.operation": "move",
        "transforms.contentType.type": f"{_TRANSFORMS}.InsertHeader",
        "transforms.contentType.header": CONTENT_TYPE,
        "transforms.contentType.value.literal": JSON,
        "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
        "transforms.outbox.table.field.event.id": "event_id",
        "transforms.outbox.table.field.event.key": "message_key",
        "transforms.outbox.table.field.event.payload": "payload",
        "transforms.outbox.table.fields.additional.placement": ",".join(
            f"{column}:header:{header}" for column, header in HEADERS.items()
        ),
        "transforms.outbox.route.by.field": "topic",
        "transforms.outbox.route.topic.replacement": "${routedByValue}",
        # The router's own header repeats ce_id.
        "transforms.id.type": f"{_TRANSFORMS}.DropHeaders",
        "transforms.id.headers": "id",
    }


def row_filter() -> str:
    """The condition of rows for Debezium: inserted as published by ``publish()`` of this service, and nothing else.

    A row that is restored from a backup has an offset if the relay has sent it.
    """
    return (
        f"status = 'published' AND source = {_literal(settings.source)} AND message_key <> '' AND publish_count = 1 "
        'AND "offset" IS NULL'
    )


def publication_sql(table: str) -> str:
    """The statement that creates the publication; ``table`` is quoted where it needs to be."""
    name = identifier(settings.debezium.publication)
    return f"CREATE PUBLICATION {name} FOR TABLE {table}\n    WHERE ({row_filter()})\n    WITH (publish = 'insert')"


def setup_sql(access: Access) -> str:
    """SQL that prepares the database once. The last lines say how to remove everything."""
    slot = _literal(settings.debezium.slot)
    role, publication = identifier(access.role), identifier(settings.debezium.publication)
    database, table = identifier(access.database), f"{identifier(access.schema)}.{identifier(TABLE)}"
    parts = (
        "-- PostgreSQL 15 or later. The server needs wal_level = logical, which takes effect after a restart:",
        "-- ALTER SYSTEM SET wal_level = logical;",
        "",
        f"-- Debezium reads the WAL, not the table. Then set a password: \\password {access.role}",
        f"CREATE ROLE {role} LOGIN REPLICATION;",
        f"GRANT CONNECT ON DATABASE {database} TO {role};",
        "",
        "-- Only rows that publish() inserts for Debezium: no updates, nothing that the relay sends.",
        f"{publication_sql(table)};",
        "",
        "-- From here on, the server keeps its WAL until Debezium has read it: start the connector soon.",
        f"SELECT pg_create_logical_replication_slot({slot}, 'pgoutput');",
        "",
        "-- To remove everything, delete the connector, then:",
        f"-- SELECT pg_drop_replication_slot({slot});",
        f"-- DROP PUBLICATION {publication};",
        f"-- REVOKE CONNECT ON DATABASE {database} FROM {role};",
        f"-- DROP ROLE {role};",
    )
    return "\n".join(parts)


def identifier(name: str) -> str:
    """A name, quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
