"""Unit tests have no database."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_open_connections() -> None:
    """Close connections that other tests left open: here even the check whether one works is refused."""
    from django.db import connections

    connections.close_all()
