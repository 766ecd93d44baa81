"""The tables are in a schema of PostgreSQL that only the search path names, beside tables of the same names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from django.db import connection

from tests.support.processes import Command

pytestmark = pytest.mark.databases("postgresql")

PUBLISH = """
from django.db import transaction
from django_outbox import publish
with transaction.atomic():
    for n in range(3):
        publish("test.effect", n, key="a")
"""


@pytest.fixture
def shop(subprocess_env: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The environment of commands whose tables are in the schema ``shop``."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA shop")
    yield {"DATABASE_URL": f"{subprocess_env['DATABASE_URL']}?options=-c%20search_path%3Dshop"}
    with connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA shop CASCADE")


def execute(statement: str) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def test_all_of_it_works_in_a_schema_of_its_own(manage: Callable[..., Command], shop: dict[str, str]) -> None:
    def run(*arguments: object) -> str:
        command = manage(*arguments, env=shop)
        assert command.wait() == 0
        return command.output

    run("migrate", "--run-syncdb", "--verbosity", 0)
    run("shell", "-c", PUBLISH)
    run("outbox_relay", "--create-topics", "--drain")
    run("outbox_consume", "--drain")

    assert execute("SELECT status, count(*) FROM shop.django_outbox_outboxmessage GROUP BY 1") == [("consumed", 3)]
    assert execute("SELECT count(*) FROM shop.tests_app_effect") == [(3,)]
    assert execute("SELECT count(*) FROM public.django_outbox_outboxmessage") == [(0,)]

    doctor = manage("outbox_doctor", env=shop)
    doctor.wait()
    assert "django_outbox_due" not in doctor.output
    execute("DROP INDEX shop.django_outbox_due")  # the table in the other schema keeps its own
    doctor = manage("outbox_doctor", env=shop)
    assert doctor.wait() == 2
    assert "django_outbox_due" in doctor.output
