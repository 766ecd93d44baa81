"""PostgreSQL's storage of the outbox that Django's models cannot express."""

from __future__ import annotations

from typing import Any

PENDING_INDEX = "django_outbox_pending"

# For PENDING_BEFORE in state/dialects/statements.py only. The conditions are true of all pending rows: other statements
# do not name them, and PostgreSQL expects a single entry, so it walks the index and does not build a bitmap of it.
PENDING_INDEX_DEFINITION = "(source, id) WHERE status || '' = 'pending' AND id - id = 0 AND id * 0 = 0"

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
    """Create the index and set the parameters, in a migration."""
    if schema_editor.connection.vendor != "postgresql":
        return
    table = _table(apps, schema_editor)
    schema_editor.execute(f"CREATE INDEX {PENDING_INDEX} ON {table} {PENDING_INDEX_DEFINITION}")
    parameters = ", ".join(f"{name} = {value}" for name, value in STORAGE_PARAMETERS.items())
    schema_editor.execute(f"ALTER TABLE {table} SET ({parameters})")


def remove_storage(apps: Any, schema_editor: Any) -> None:
    """Undo ``apply_storage``."""
    if schema_editor.connection.vendor != "postgresql":
        return
    schema_editor.execute(f"ALTER TABLE {_table(apps, schema_editor)} RESET ({', '.join(STORAGE_PARAMETERS)})")
    schema_editor.execute(f"DROP INDEX {PENDING_INDEX}")


def _table(apps: Any, schema_editor: Any) -> str:
    name: str = schema_editor.quote_name(apps.get_model("django_outbox", "OutboxMessage")._meta.db_table)
    return name
