"""Column types, indexes and expressions that behave the same on every supported database."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from django_outbox.conf import settings

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor
    from django.db.models.sql.compiler import SQLCompiler


class DatabaseNow(Now):
    """The database's clock in UTC. Application servers' clocks may differ.

    On MySQL, Django's own ``Now`` returns the session's time zone, although Django stores UTC.
    """

    def as_mysql(
        self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **extra: Any
    ) -> tuple[str, tuple[str | int, ...]]:
        return "UTC_TIMESTAMP(6)", ()


def due_at(when: datetime | timedelta) -> Any:
    """A value for ``next_retry_at`` or ``until``; a timedelta counts from now by the database's clock."""
    if not isinstance(when, timedelta):
        return when
    # SQLite compares times as text, and a sum has more digits: it would be due a millisecond late.
    return DatabaseNow() + when if when else DatabaseNow()


def database_now(rows: models.QuerySet[Any]) -> datetime:
    """The time by the database's clock, or by this machine's if ``rows`` is empty."""
    now: datetime | None = rows.order_by().values_list(DatabaseNow(), flat=True).first()
    return now or timezone.now()


def current_source() -> str:
    """The setting ``SOURCE``: the name of this service."""
    return settings.source


class CurrentSource(models.Value):
    """``SOURCE`` as a column's default in the database.

    Migrations name the class, not the value, so they are the same in every project.
    """

    def __init__(self) -> None:
        super().__init__("")

    def as_sql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper) -> tuple[str, tuple[str | int, ...]]:
        return "%s", (current_source(),)


class ExactCharField(models.CharField):  # type: ignore[type-arg]
    """A CharField whose comparisons are exact.

    The default collations of MySQL and MariaDB ignore case and trailing spaces; Kafka's keys do not.
    """

    def db_parameters(self, connection: BaseDatabaseWrapper) -> Any:
        parameters = super().db_parameters(connection)
        if connection.vendor == "mysql":
            mariadb = getattr(connection, "mysql_is_mariadb", False)
            parameters["collation"] = "utf8mb4_nopad_bin" if mariadb else "utf8mb4_0900_bin"
        return parameters


class PartialIndex(models.Index):
    """An index on some rows, or on all rows if the database has no partial indexes.

    Django's own index with a ``condition`` does the same, but its system check warns on MySQL and MariaDB.

    Args:
        where: the rows.
        without_on_mysql: fields to omit on MySQL and MariaDB, which allow 3072 bytes, 4 per character.
    """

    def __init__(self, *, where: models.Q, without_on_mysql: Sequence[str] = (), **options: Any) -> None:
        super().__init__(**options)
        self.where = where
        self.without_on_mysql = without_on_mysql

    def create_sql(
        self, model: type[models.Model], schema_editor: BaseDatabaseSchemaEditor, using: str = "", **kwargs: Any
    ) -> Any:
        partial = schema_editor.connection.features.supports_partial_indexes
        omitted = self.without_on_mysql if schema_editor.connection.vendor == "mysql" else ()
        fields = [name for name in self.fields if name not in omitted]
        index = models.Index(fields=fields, name=self.name, condition=self.where if partial else None)
        return index.create_sql(model, schema_editor, using, **kwargs)

    def deconstruct(self) -> tuple[str, Any, dict[str, Any]]:
        path, arguments, options = super().deconstruct()
        if self.without_on_mysql:
            options["without_on_mysql"] = self.without_on_mysql
        return path, arguments, {**options, "where": self.where}


def json_value(value: Any) -> Any:
    """A value for a JSON column, with None as JSON's null; Django would store NULL."""
    return models.Value(None, models.JSONField()) if value is None else value


def uuid7() -> uuid.UUID:
    """A new UUID that sorts by creation time in milliseconds.

    Source: RFC 9562, section 5.7: 48 bits of Unix time in ms, version 7, variant 0b10,
    the other 74 bits random.
    """
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & (1 << 48) - 1) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return uuid.UUID(int=value)
