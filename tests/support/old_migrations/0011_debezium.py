from importlib import import_module
from typing import Any

from django.db import migrations
from django.db.models import F, Q

from django_outbox.models.fields import PartialIndex
from django_outbox.models.storage import DEBEZIUM_INDEX, DEBEZIUM_INDEX_DEFINITION

STORAGE = import_module("tests.support.old_migrations.0003_postgresql_storage")
KEY_SENT = "django_outbox_key_sent"


def forwards(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        table = STORAGE._table(apps, schema_editor)
        schema_editor.execute(f"CREATE INDEX {DEBEZIUM_INDEX} ON {table} {DEBEZIUM_INDEX_DEFINITION}")


def backwards(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(f"DROP INDEX {DEBEZIUM_INDEX}")


class Migration(migrations.Migration):
    dependencies = [("django_outbox", "0010_payloads")]

    operations = [
        migrations.RemoveIndex("OutboxMessage", KEY_SENT),
        migrations.AddIndex(
            "OutboxMessage",
            PartialIndex(
                name=KEY_SENT,
                fields=["topic", "message_key", "source", "event_type", "id"],
                where=Q(status="published", partition__isnull=False, id=F("id") + 0),
                without_on_mysql=["source"],
            ),
        ),
        migrations.RunPython(forwards, backwards, hints={"model_name": "outboxmessage"}),
    ]
