"""The service that wrote each message, and that each worker is of, so that several can share the tables.

Existing rows get the ``SOURCE`` of the settings that this migration runs with. The default is the database's as well:
workers of an older release go on writing rows meanwhile.
"""

from importlib import import_module
from typing import Any

from django.db import migrations, models

import django_outbox.models.fields

STORAGE = import_module("tests.support.old_migrations.0003_postgresql_storage")
# As django_outbox/postgresql.py says it, and why.
PENDING = "(source, id) WHERE status || '' = 'pending' AND id - id = 0 AND id * 0 = 0"
PENDING_BEFORE = "(id) WHERE status || '' = 'pending'"


def forwards(apps: Any, schema_editor: Any) -> None:
    _replace_index(apps, schema_editor, PENDING)


def backwards(apps: Any, schema_editor: Any) -> None:
    _replace_index(apps, schema_editor, PENDING_BEFORE)


def _replace_index(apps: Any, schema_editor: Any, definition: str) -> None:
    if schema_editor.connection.vendor != "postgresql":
        return
    table = schema_editor.quote_name(apps.get_model("django_outbox", "OutboxMessage")._meta.db_table)
    schema_editor.execute(f"DROP INDEX {STORAGE.INDEX}")
    schema_editor.execute(f"CREATE INDEX {STORAGE.INDEX} ON {table} {definition}")


def replace_index(
    name: str, fields: list[str], where: models.Q, **options: Any
) -> list[migrations.operations.base.Operation]:
    return [
        migrations.RemoveIndex(model_name="outboxmessage", name=name),
        migrations.AddIndex(
            model_name="outboxmessage",
            index=django_outbox.models.fields.PartialIndex(name=name, fields=fields, where=where, **options),
        ),
    ]


class Migration(migrations.Migration):
    dependencies = (("django_outbox", "0006_overview"),)

    operations = (
        migrations.AddField(
            model_name="outboxmessage",
            name="source",
            field=django_outbox.models.fields.ExactCharField(
                db_default=django_outbox.models.fields.CurrentSource(),
                default=django_outbox.models.fields.current_source,
                max_length=255,
                verbose_name="source",
            ),
        ),
        migrations.AddField(
            model_name="worker",
            name="source",
            field=django_outbox.models.fields.ExactCharField(
                db_default=django_outbox.models.fields.CurrentSource(),
                default=django_outbox.models.fields.current_source,
                max_length=255,
                verbose_name="source",
            ),
        ),
        *replace_index(
            "django_outbox_due",
            ["source", "next_retry_at", "id"],
            models.Q(("next_retry_at__isnull", False), ("status", "pending")),
        ),
        *replace_index(
            "django_outbox_key",
            ["topic", "message_key", "source", "status", "id"],
            models.Q(("status__in", ["pending", "dead"])),
            without_on_mysql=["source"],
        ),
        *replace_index(
            "django_outbox_key_sent",
            ["topic", "message_key", "source", "event_type", "id"],
            models.Q(("status", "published")),
            without_on_mysql=["source"],
        ),
        *replace_index(
            "django_outbox_place",
            ["source", "event_type", "topic", "partition", "offset"],
            models.Q(("publish_count__gt", 0), ("status", "published")),
        ),
        *replace_index(
            "django_outbox_unfinished",
            ["status", "id", "source"],
            models.Q(("id__gt", 0), ("status__in", ["pending", "published", "dead"])),
        ),
        migrations.RunPython(forwards, backwards, hints={"model_name": "outboxmessage"}),
    )
