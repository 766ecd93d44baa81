"""The statements of relay and consumer: Django's ORM for any database, and PostgreSQL's own."""

from __future__ import annotations

from django.db import connections

from django_outbox.state.dialects.base import Dialect
from django_outbox.state.dialects.postgresql import PostgreSQL

_DIALECTS: dict[str, type[Dialect]] = {"postgresql": PostgreSQL}


def dialect_of(using: str) -> Dialect:
    """The dialect of a database, by its alias."""
    return _DIALECTS.get(connections[using].vendor, Dialect)(using)
