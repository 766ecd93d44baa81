"""Migrations: they match the models, go back and forth, and the database itself refuses broken rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import DataError, IntegrityError, connection, transaction
from django.db.models import F

from django_outbox.models import OutboxMessage
from django_outbox.models.fields import DatabaseNow
from tests.support.outbox import Status, make_message, row
from tests.support.schema import TABLE, constraints, schema, tables

STATUSES = [Status.PENDING, Status.PUBLISHED, Status.CONSUMED, Status.DEAD]


@pytest.fixture
def migrated_again(transactional_db: None, settings: Any) -> Iterator[None]:
    """Whatever a test leaves, the tables are back after it."""
    yield
    call_command("migrate", "django_outbox", verbosity=0)


# The migrations


@pytest.mark.django_db
def test_migrations_match_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("makemigrations", "django_outbox", check=True, dry_run=True)
    assert "No changes detected" in capsys.readouterr().out


def test_migrations_go_back_to_nothing_and_forth_again(migrated_again: None) -> None:
    before = {name: sorted(each["columns"]) for name, each in constraints().items() if "unnamed" not in name}
    assert TABLE in tables()
    call_command("migrate", "django_outbox", "zero", verbosity=0)
    assert not [name for name in tables() if name.startswith("django_outbox")]
    call_command("migrate", "django_outbox", verbosity=0)
    assert before == {name: sorted(each["columns"]) for name, each in constraints().items() if "unnamed" not in name}
    make_message()


@pytest.mark.django_db
def test_migrations_need_no_migration_after_them() -> None:
    call_command("migrate", "django_outbox", check_unapplied=True, verbosity=0)


@pytest.mark.databases("sqlite", "postgresql", "mariadb")  # those that have run before the first release
def test_the_first_migration_leads_to_the_schema_of_those_that_it_replaces(migrated_again: None, settings: Any) -> None:
    call_command("migrate", "django_outbox", "0001", verbosity=0)
    new = schema()
    call_command("migrate", "django_outbox", "zero", verbosity=0)
    settings.MIGRATION_MODULES = {"django_outbox": "tests.support.old_migrations"}
    call_command("migrate", "django_outbox", verbosity=0)
    assert schema() == new
    call_command("migrate", "django_outbox", "zero", verbosity=0)
    settings.MIGRATION_MODULES = {}


@pytest.mark.django_db
def test_migrations_match_the_models_whatever_the_source_is(settings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "SOURCE": "billing"}
    call_command("makemigrations", "django_outbox", check=True, dry_run=True)
    assert "No changes detected" in capsys.readouterr().out


# Indexes


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("django_outbox_due", ["source", "next_retry_at", "id"]),
        ("django_outbox_key", ["topic", "message_key", "source", "status", "id"]),
        ("django_outbox_key_sent", ["topic", "message_key", "source", "event_type", "id"]),
        ("django_outbox_place", ["source", "event_type", "topic", "partition", "offset"]),
    ],
)
def test_index_exists(name: str, columns: list[str]) -> None:
    index = constraints()[name]
    assert index["index"]
    if "key" in name and connection.vendor == "mysql":  # no room for all columns
        columns = [column for column in columns if column != "source"]
    assert index["columns"] == columns


@pytest.mark.django_db
def test_event_id_has_a_unique_index() -> None:
    assert [each["columns"] for each in constraints().values() if each["unique"] and not each["primary_key"]] == [
        ["event_id"]
    ]
    message = make_message()
    with pytest.raises(IntegrityError), transaction.atomic():
        make_message(event_id=message.event_id)


@pytest.mark.databases("sqlite", "postgresql", "mariadb")  # MySQL takes any index of four rows
@pytest.mark.django_db
def test_relay_finds_due_rows_by_an_index() -> None:
    for status in STATUSES:
        make_message(status)
    plan = OutboxMessage.objects.due()[:10].explain()
    if connection.vendor == "postgresql":  # a table of four rows is read whole and sorted, unless that is forbidden
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")
        plan = OutboxMessage.objects.due()[:10].explain()
    assert "django_outbox_due" in plan


# Rows that no program may write


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["status_known", "due_when_pending", "consumed_at"])
def test_constraint_exists(name: str) -> None:
    assert constraints()[f"django_outbox_{name}"]["check"]


BROKEN: dict[str, tuple[str, dict[str, Any]]] = {
    "pending that is never due": (Status.PENDING, {"next_retry_at": None}),
    "published and due": (Status.PUBLISHED, {"next_retry_at": DatabaseNow()}),
    "consumed and due": (Status.CONSUMED, {"next_retry_at": DatabaseNow()}),
    "dead and due": (Status.DEAD, {"next_retry_at": DatabaseNow()}),
    "consumed at no time": (Status.CONSUMED, {"consumed_at": None}),
    "pending and handled": (Status.PENDING, {"consumed_at": DatabaseNow()}),
    "published and handled": (Status.PUBLISHED, {"consumed_at": DatabaseNow()}),
    "dead and handled": (Status.DEAD, {"consumed_at": DatabaseNow()}),
    "unknown status": (Status.PUBLISHED, {"status": "lost"}),
    "empty status": (Status.PUBLISHED, {"status": ""}),
    "only the status set to pending": (Status.DEAD, {"status": Status.PENDING}),
    "only the status set to consumed": (Status.PUBLISHED, {"status": Status.CONSUMED}),
    "only the status set to dead": (Status.PENDING, {"status": Status.DEAD}),
    "no status": (Status.PUBLISHED, {"status": None}),
    "no payload": (Status.PUBLISHED, {"payload": None}),
    "no key": (Status.PUBLISHED, {"message_key": None}),
    "less than no failures": (Status.PUBLISHED, {"retry_count": F("retry_count") - 1}),
    "less than no publications": (Status.PENDING, {"publish_count": F("publish_count") - 1}),
}


# The same to a usual collation of MariaDB, which ignores case and spaces at the end.
LOOK_ALIKE = {
    "status in capitals": (Status.PUBLISHED, {"status": "PUBLISHED"}),
    "status with a space": (Status.DEAD, {"status": "dead "}),
}


def assert_refused(status: str, changes: dict[str, Any]) -> None:
    message = make_message(status)
    before = {name: getattr(row(message), name) for name in changes}
    with pytest.raises((IntegrityError, DataError)), transaction.atomic():
        OutboxMessage.objects.filter(id=message.id).update(**changes)
    assert {name: getattr(row(message), name) for name in changes} == before


@pytest.mark.django_db
@pytest.mark.parametrize("name", BROKEN)
def test_database_refuses(name: str) -> None:
    assert_refused(*BROKEN[name])


@pytest.mark.django_db
@pytest.mark.parametrize("name", LOOK_ALIKE)
def test_database_refuses_a_state_that_only_looks_known(name: str) -> None:
    assert_refused(*LOOK_ALIKE[name])


@pytest.mark.django_db
@pytest.mark.parametrize("status", STATUSES)
def test_database_takes_every_state_as_it_should_be(status: str) -> None:
    message = make_message(status)
    assert row(message).status == status
