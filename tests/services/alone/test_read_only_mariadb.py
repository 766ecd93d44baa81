"""MariaDB that takes no writes, as the server that was the primary before a failover."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import OperationalError, connection

from django_outbox.worker.database_errors import is_outage, is_transient, is_unavailable
from tests.support.database_errors import caused

pytestmark = [pytest.mark.databases("mariadb"), pytest.mark.django_db(transaction=True)]


@contextmanager
def read_only_server() -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("SET GLOBAL read_only = 1")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SET GLOBAL read_only = 0")


@pytest.mark.parametrize("code", [1290, 1836])
def test_a_server_that_takes_no_writes_passes(code: int) -> None:
    """Unless this database does take them: a handler may have written to another one."""
    error = caused(OperationalError("x"), Exception(code, "text"))
    assert is_unavailable(error)
    assert not is_transient(error, "default")
    assert not is_outage(error, "default")
    with read_only_server():
        assert is_transient(error, "default")
        assert is_outage(error, "default")
