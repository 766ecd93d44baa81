"""PostgreSQL's storage of the outbox that Django's models cannot express."""

from __future__ import annotations

from typing import Any

PENDING_INDEX = "django_outbox_pending"

# For PENDING_BEFORE in state/dialects/statements.py only. The conditions are true of all pending rows: other statements
# do not name them, and PostgreSQL expects a single entry, so it walks the index and does not build a bitmap of it.
PENDING_INDEX_DEFINITION = "(source, id) WHERE status || '' = 'pending' AND id - id = 0 AND id * 0 = 0"

DEBEZIUM_INDEX = "django_outbox_key_debezium"

# For the order of keys: earlier messages that Debezium carries, which have no place in the log. Apart from those that the
# relay sent, of which a message of Debezium looks for the first: it would walk past all others of its key. "id = id + 0" is
# true of every row. PostgreSQL expects it of a single one, so it uses this index even if all messages have the same key.
DEBEZIUM_INDEX_DEFINITION = (
    "(topic, message_key, source, event_type, id) WHERE status = 'published' AND \"partition\" IS NULL AND id = id + 0"
)

INDEXES = {PENDING_INDEX: PENDING_INDEX_DEFINITION, DEBEZIUM_INDEX: DEBEZIUM_INDEX_DEFINITION}

# Vacuum and analyze after a number of changed rows, not a fifth of a table that is mostly history. Never skip the
# indexes: each claim walks past dead entries.
STORAGE_PARAMETERS: dict[str, Any] = {
    "autovacuum_vacuum_scale_factor": 0.002,
    "autovacuum_vacuum_threshold": 10000,
    "autovacuum_analyze_scale_factor": 0.002,
    "autovacuum_analyze_threshold": 10000,
    "autovacuum_vacuum_cost_limit": 2000,
    "vacuum_index_cleanup": "on",
}


def apply_storage(apps: Any, schema_editor: Any) -> None:
    """Create the indexes and set the parameters, in a migration."""
    if schema_editor.connection.vendor != "postgresql":
        return
    table = _table(apps, schema_editor)
    for name, definition in INDEXES.items():
        schema_editor.execute(f"CREATE INDEX {name} ON {table} {definition}")
    parameters = ", ".join(f"{name} = {value}" for name, value in STORAGE_PARAMETERS.items())
    schema_editor.execute(f"ALTER TABLE {table} SET ({parameters})")


def remove_storage(apps: Any, schema_editor: Any) -> None:
    """Undo ``apply_storage``."""
    if schema_editor.connection.vendor != "postgresql":
        return
    schema_editor.execute(f"ALTER TABLE {_table(apps, schema_editor)} RESET ({', '.join(STORAGE_PARAMETERS)})")
    for name in INDEXES:
        schema_editor.execute(f"DROP INDEX {name}")


def _table(apps: Any, schema_editor: Any) -> str:
    name: str = schema_editor.quote_name(apps.get_model("django_outbox", "OutboxMessage")._meta.db_table)
    return name
