"""Errors as the clients of databases raise them."""

from __future__ import annotations

from typing import Any

from django.db import DatabaseError


def caused(error: DatabaseError, cause: Exception, **attributes: Any) -> DatabaseError:
    """Django's error with the client's behind it, which has the server's code as its first argument or an attribute."""
    for name, value in attributes.items():
        setattr(cause, name, value)
    error.__cause__ = cause
    return error
