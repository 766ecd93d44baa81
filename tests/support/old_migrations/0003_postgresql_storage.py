"""How PostgreSQL keeps the outbox: see the page on storage in the documentation for what each of these does, and how that was measured."""

from typing import Any

from django.db import migrations

INDEX = "django_outbox_pending"

# Vacuum, and renew the statistics, after so many changed rows, not after a fifth of a table that is mostly history;
# do it in seconds, and do not leave out the indexes, as PostgreSQL does when only few pages have changed: every look
# at what is due walks along what is no longer.
SETTINGS = {
    "autovacuum_vacuum_scale_factor": 0.002,
    "autovacuum_vacuum_threshold": 10000,
    "autovacuum_analyze_scale_factor": 0.002,
    "autovacuum_analyze_threshold": 10000,
    "autovacuum_vacuum_cost_limit": 2000,
    "vacuum_index_cleanup": "on",
}


def forwards(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor != "postgresql":
        return
    table = _table(apps, schema_editor)
    # "status || ''" lets no other query take this index for its own: see django_outbox/postgresql.py.
    schema_editor.execute(f"CREATE INDEX {INDEX} ON {table} (id) WHERE status || '' = 'pending'")
    settings = ", ".join(f"{name} = {value}" for name, value in SETTINGS.items())
    schema_editor.execute(f"ALTER TABLE {table} SET ({settings})")


def backwards(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor != "postgresql":
        return
    schema_editor.execute(f"ALTER TABLE {_table(apps, schema_editor)} RESET ({', '.join(SETTINGS)})")
    schema_editor.execute(f"DROP INDEX {INDEX}")


def _table(apps: Any, schema_editor: Any) -> str:
    name: str = schema_editor.quote_name(apps.get_model("django_outbox", "OutboxMessage")._meta.db_table)
    return name


class Migration(migrations.Migration):
    dependencies = (("django_outbox", "0002_published_places"),)

    operations = (migrations.RunPython(forwards, backwards, hints={"model_name": "outboxmessage"}),)
