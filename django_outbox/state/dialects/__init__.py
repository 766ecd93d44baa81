"""Statements that depend on the database: Django's ORM for any, and PostgreSQL's own."""

from __future__ import annotations

from typing import Any

from django.db import connections
from django.db.models import QuerySet

from django_outbox.state.dialects.base import Dialect
from django_outbox.state.dialects.postgresql import PostgreSQL

_DIALECTS: dict[str, type[Dialect]] = {"postgresql": PostgreSQL}


def dialect_of(using: str) -> Dialect:
    """The dialect of a database, by its alias."""
    return _DIALECTS.get(connections[using].vendor, Dialect)(using)


def oldest_first(messages: QuerySet[Any], status: str) -> QuerySet[Any]:
    """Unfinished messages with one status, ordered by id and read from the index on unfinished messages."""
    return dialect_of(messages.db).oldest_first(messages, status)
