"""How PostgreSQL keeps the outbox: docs/storage.rst says what each of these is for, and what it was measured to do."""

from typing import Any

from django.db import migrations


def forwards(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor != "postgresql":
        return
    table = _table(apps, schema_editor)
    schema_editor.execute(f"CREATE INDEX django_outbox_pending ON {table} (id) WHERE status || '' = 'pending'")


def backwards(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor != "postgresql":
        return
    schema_editor.execute("DROP INDEX django_outbox_pending")


def _table(apps: Any, schema_editor: Any) -> str:
    name: str = schema_editor.quote_name(apps.get_model("django_outbox", "OutboxMessage")._meta.db_table)
    return name


class Migration(migrations.Migration):
    dependencies = (("django_outbox", "0002_published_places"),)

    operations = (migrations.RunPython(forwards, backwards, hints={"model_name": "outboxmessage"}),)
