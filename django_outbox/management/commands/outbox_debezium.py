"""``manage.py outbox_debezium``: prints what Debezium needs to send the outbox."""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

from django.core.management.base import CommandParser

from django_outbox.management.base import OutboxCommand
from django_outbox.management.option_types import number, text
from django_outbox.operations.connector import PASSWORD, Access, connector_config, setup_sql

_REFERENCE = re.compile(r"\$\{[\w.-]+:[^}]+\}\Z")


def reference(given: str) -> str:
    """A reference to one of Kafka Connect's config providers."""
    if not _REFERENCE.match(given):  # it is not shown, as it may be a password
        raise argparse.ArgumentTypeError("it must be a reference such as ${env:NAME} or ${file:/path:name}")
    return given


class Command(OutboxCommand):
    help = (
        'Print what Debezium needs to send the outbox with PUBLISHER = "debezium", from this project\'s settings. --sql: '
        "statements for a superuser, once: a role, a publication with new published rows only, and a replication slot. "
        "Run them first, then start the connector, then set PUBLISHER. --json: the connector's configuration, for Kafka "
        "Connect's REST API (PUT /connectors/NAME/config). Its records equal the relay's. Changes nothing, needs no "
        "database, and prints no password. outbox_doctor checks the result."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        output = parser.add_mutually_exclusive_group(required=True)
        output.add_argument("--json", action="store_true", help="Print the configuration of the connector.")
        output.add_argument("--sql", action="store_true", help="Print the statements for PostgreSQL.")
        parser.add_argument(
            "--host",
            type=text,
            help="The server, as Kafka Connect reaches it; not a pooler (default: HOST of the database).",
        )
        parser.add_argument(
            "--port", type=number(1, most=65535), metavar="N", help="Its port (default: PORT of the database)."
        )
        parser.add_argument(
            "--schema",
            type=text,
            default="public",
            help="The schema with the tables of the outbox (default: %(default)s).",
        )
        parser.add_argument("--role", type=text, help="The role of the connector (default: the name of the slot).")
        parser.add_argument(
            "--password",
            type=reference,
            default=PASSWORD,
            metavar="REFERENCE",
            help="Where the connector finds its password: a reference to a config provider of Kafka Connect, such as "
            f"${{file:/run/secrets/debezium.properties:password}} (default: {PASSWORD}).",
        )

    def handle(self, *, database: str, sql: bool, **options: Any) -> None:
        given = {name: options[name] for name in ("host", "port", "schema", "role", "password")}
        access = Access.of(database, **given)
        self.stdout.write(setup_sql(access) if sql else json.dumps(connector_config(access), indent=2))
