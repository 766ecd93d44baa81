"""Indexes and constraints that are missing, invalid or bloated."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, connection, models

from django_outbox.models import Activity, InboxMessage, OutboxMessage
from django_outbox.operations.doctor import indexes
from django_outbox.operations.doctor.base import Installation, Level
from tests.support.doctor import limited
from tests.support.outbox import make_message

pytestmark = pytest.mark.django_db


def execute(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def test_all_indexes_are_there(installation: Installation) -> None:
    assert list(indexes.missing(installation)) == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("model", [OutboxMessage, InboxMessage])
def test_a_missing_index_is_a_fault_and_the_remedy_makes_it(
    installation: Installation, model: type[models.Model]
) -> None:
    index = model._meta.indexes[0]
    with connection.schema_editor() as editor:
        editor.remove_index(model, index)
    try:
        (finding,) = indexes.missing(installation)
        assert finding.level == Level.FAULT
        assert index.name in finding.summary
        execute(finding.remedy)
        assert list(indexes.missing(installation)) == []
    except BaseException:
        with connection.schema_editor() as editor:
            editor.add_index(model, index)
        raise


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", ["django_outbox_pending", "django_outbox_key_debezium"])
def test_a_missing_index_of_the_storage_is_a_fault_and_the_remedy_makes_it(
    installation: Installation, name: str
) -> None:
    execute(f"DROP INDEX {name}")
    (finding,) = indexes.missing(installation)
    assert finding.level == Level.FAULT
    execute(finding.remedy)
    assert list(indexes.missing(installation)) == []


@pytest.mark.databases("postgresql")
def test_a_missing_constraint_is_told_and_the_remedy_makes_it(installation: Installation) -> None:
    execute("ALTER TABLE django_outbox_outboxmessage DROP CONSTRAINT django_outbox_consumed_at")
    (finding,) = indexes.missing(installation)
    assert (finding.level, "django_outbox_consumed_at" in finding.summary) == (Level.WARNING, True)
    execute(finding.remedy)
    assert list(indexes.missing(installation)) == []


@pytest.mark.databases("postgresql")
def test_an_identity_that_is_not_unique_is_a_fault(installation: Installation) -> None:
    execute("ALTER TABLE django_outbox_inboxmessage DROP CONSTRAINT django_outbox_inbox_identity")
    execute("ALTER TABLE django_outbox_outboxmessage DROP CONSTRAINT django_outbox_outboxmessage_event_id_key")
    found = list(indexes.missing(installation))
    assert [finding.level for finding in found] == [Level.FAULT, Level.FAULT]
    assert found[0].remedy == "CREATE UNIQUE INDEX CONCURRENTLY ON django_outbox_outboxmessage (event_id)"


@pytest.mark.databases("postgresql", "sqlite")
def test_a_missing_table_is_a_fault(installation: Installation) -> None:
    execute("DROP TABLE django_outbox_activity")
    (finding,) = indexes.missing(installation)
    assert (finding.level, finding.summary) == (Level.FAULT, "The table django_outbox_activity does not exist.")


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
def test_an_invalid_index_is_a_fault_and_the_remedy_mends_it(installation: Installation) -> None:

    assert list(indexes.invalid(installation)) == []
    make_message()
    make_message()
    with pytest.raises(IntegrityError):  # fails half-way and stays behind
        execute("CREATE UNIQUE INDEX CONCURRENTLY broken ON django_outbox_outboxmessage (event_type)")
    try:
        (finding,) = indexes.invalid(installation)
        assert (finding.level, finding.summary) == (Level.FAULT, "The index broken is invalid.")
        execute("DELETE FROM django_outbox_outboxmessage")
        execute(finding.remedy)
        assert list(indexes.invalid(installation)) == []
    finally:
        execute("DROP INDEX broken")


@pytest.mark.databases("postgresql")
@pytest.mark.django_db(transaction=True)
def test_a_bloated_index_is_warned_of_and_the_remedy_mends_it(installation: Installation) -> None:

    execute(
        "INSERT INTO django_outbox_activity (period, last_id, published, consumed) "
        "SELECT now() + n * interval '1 s', 0, 0, 0 FROM generate_series(1, 20000) n"
    )
    execute("VACUUM ANALYZE django_outbox_activity")
    assert limited(indexes.bloated, installation, TOLERATED_BYTES=100_000) == []
    Activity.objects.all().delete()
    execute("VACUUM ANALYZE django_outbox_activity")
    found = limited(indexes.bloated, installation, TOLERATED_BYTES=100_000)
    assert {finding.level for finding in found} == {Level.WARNING}
    assert [finding.summary.split()[2] for finding in found] == [
        "django_outbox_activity_period_key",
        "django_outbox_activity_pkey",
    ]
    for finding in found:
        execute(finding.remedy)
    assert limited(indexes.bloated, installation, TOLERATED_BYTES=100_000) == []
    assert list(indexes.bloated(installation)) == []
