"""What keeps PostgreSQL from cleaning up."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from django_outbox.models import OutboxMessage
from django_outbox.models.storage import STORAGE_PARAMETERS
from django_outbox.operations.doctor import vacuum
from django_outbox.operations.doctor.base import Installation, Level
from tests.support.doctor import limited
from tests.support.outbox import make_message
from tests.support.processes import wait_until
from tests.support.standby import standby

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.databases("postgresql")]

AT_ONCE = timedelta(0)


def execute(sql: str, *arguments: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, arguments or None)
        return cursor.fetchone()[0] if cursor.description else None


@pytest.fixture(autouse=True)
def _clean() -> None:
    """Other tests may have left much behind."""
    execute("VACUUM django_outbox_outboxmessage")


def test_a_session_with_an_old_snapshot_is_found_and_the_remedy_ends_it(
    installation: Installation, other_session: Any
) -> None:
    with other_session.cursor() as cursor:
        cursor.execute("SET application_name = 'forgotten'; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        cursor.execute("SELECT pg_backend_pid()")
        pid = cursor.fetchone()[0]
    assert list(vacuum.old_snapshots(installation)) == []  # not old yet
    found = limited(vacuum.old_snapshots, installation, OLD=AT_ONCE)
    (finding,) = [finding for finding in found if f"Session {pid} of postgres (forgotten)" in finding.summary]
    assert finding.level == Level.WARNING
    assert "idle in transaction" in finding.summary
    execute(finding.remedy.partition(",")[0])
    wait_until(
        lambda: not any(str(pid) in each.summary for each in limited(vacuum.old_snapshots, installation, OLD=AT_ONCE))
    )


def test_remedies_quote_roles_where_that_is_needed(installation: Installation, other_session: Any) -> None:
    execute('CREATE ROLE "sales-app" LOGIN')
    other_session.settings_dict = {**other_session.settings_dict, "USER": "sales-app"}
    try:
        with other_session.cursor() as cursor:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
            (finding,) = limited(vacuum.old_snapshots, installation, OLD=AT_ONCE)
        assert 'ALTER ROLE "sales-app" SET ' in finding.remedy
    finally:
        other_session.close()
        execute('DROP ROLE "sales-app"')


def test_a_session_that_is_open_far_too_long_is_a_fault(installation: Installation, other_session: Any) -> None:
    with other_session.cursor() as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        found = limited(vacuum.old_snapshots, installation, OLD=AT_ONCE, VERY_OLD=AT_ONCE)
        assert [finding.level for finding in found] == [Level.FAULT]


def test_a_session_of_another_role_is_known_by_what_it_holds_back(
    installation: Installation, other_session: Any
) -> None:
    execute("CREATE ROLE stranger")
    with other_session.cursor() as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        try:
            execute("SET ROLE stranger")
            assert limited(vacuum.old_snapshots, installation, OLD=AT_ONCE) == []
            (finding,) = limited(vacuum.old_snapshots, installation, OLD=AT_ONCE, MANY_TRANSACTIONS=0)
        finally:
            execute("RESET ROLE")
            execute("DROP ROLE stranger")
    assert finding.level == Level.WARNING
    assert re.fullmatch(r"Session \d+ of postgres holds back \d+ transactions\.", finding.summary)


def test_a_standby_that_holds_vacuum_back_is_found(installation: Installation) -> None:
    snapshot = int(execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text"))
    wal = execute("SELECT pg_current_wal_flush_lsn()::text")
    with standby(connection.settings_dict, None, wal, snapshot):
        (finding,) = wait_until(lambda: limited(vacuum.old_snapshots, installation, MANY_TRANSACTIONS=0))
        assert finding.level == Level.WARNING
        assert finding.summary.startswith("The standby ")
        assert list(vacuum.old_snapshots(installation)) == []


def test_a_session_between_transactions_holds_nothing_back(installation: Installation, other_session: Any) -> None:
    with other_session.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid = cursor.fetchone()[0]
    assert not any(str(pid) in finding.summary for finding in limited(vacuum.old_snapshots, installation, OLD=AT_ONCE))


def test_a_prepared_transaction_is_a_fault_and_the_remedy_ends_it(
    installation: Installation, other_session: Any
) -> None:
    assert limited(vacuum.prepared_transactions, installation, OLD=AT_ONCE) == []
    with other_session.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE django_outbox_activity IN ACCESS SHARE MODE; PREPARE TRANSACTION 'left over'")
    try:
        assert list(vacuum.prepared_transactions(installation)) == []
        (finding,) = limited(vacuum.prepared_transactions, installation, OLD=AT_ONCE)
        assert finding.level == Level.FAULT
        assert "'left over' of postgres" in finding.summary
    finally:
        execute("ROLLBACK PREPARED 'left over'")
    assert finding.remedy.startswith("ROLLBACK PREPARED 'left over'")
    assert limited(vacuum.prepared_transactions, installation, OLD=AT_ONCE) == []


@pytest.fixture
def slot() -> Iterator[str]:
    execute("SELECT pg_create_physical_replication_slot('doctors_patient', true)")
    yield "doctors_patient"
    wait_until(lambda: not execute("SELECT active FROM pg_replication_slots WHERE slot_name = 'doctors_patient'"))
    execute("SELECT pg_drop_replication_slot('doctors_patient')")


def test_a_slot_that_remembers_an_old_snapshot_is_found(installation: Installation, slot: str) -> None:
    assert limited(vacuum.replication_slots, installation, MANY_TRANSACTIONS=0) == []
    snapshot = int(execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text"))
    wal = execute("SELECT pg_current_wal_flush_lsn()::text")
    with standby(connection.settings_dict, slot, wal, snapshot):
        (finding,) = wait_until(lambda: limited(vacuum.replication_slots, installation, MANY_TRANSACTIONS=0))
        assert finding.level == Level.WARNING
        assert "doctors_patient" in finding.summary
        assert "no standby uses it" not in finding.summary
    (finding,) = wait_until(
        lambda: [
            f
            for f in limited(vacuum.replication_slots, installation, MANY_TRANSACTIONS=0)
            if "no standby uses it" in f.summary
        ]
    )
    assert finding.remedy.endswith("SELECT pg_drop_replication_slot('doctors_patient')")
    assert list(vacuum.replication_slots(installation)) == []  # so few transactions are no harm


def test_autovacuum_keeps_up(installation: Installation) -> None:
    assert list(vacuum.autovacuum(installation)) == []


def test_autovacuum_that_is_off_for_the_table_is_a_fault_and_the_remedy_switches_it_on(
    installation: Installation,
) -> None:
    execute("ALTER TABLE django_outbox_outboxmessage SET (autovacuum_enabled = false)")
    (finding,) = vacuum.autovacuum(installation)
    assert finding.level == Level.FAULT
    execute(finding.remedy)
    assert list(vacuum.autovacuum(installation)) == []


def test_autovacuum_that_is_off_for_the_server_is_a_fault(installation: Installation) -> None:
    execute("ALTER SYSTEM SET autovacuum = off")
    execute("SELECT pg_reload_conf()")
    try:
        (finding,) = wait_until(lambda: list(vacuum.autovacuum(installation)))
        assert (finding.level, finding.summary) == (Level.FAULT, "The server has autovacuum = off.")
    finally:
        execute("ALTER SYSTEM RESET autovacuum")
        execute("SELECT pg_reload_conf()")
    wait_until(lambda: not list(vacuum.autovacuum(installation)))


def test_missing_settings_of_the_table_are_noted_and_the_remedy_sets_them(installation: Installation) -> None:
    execute("ALTER TABLE django_outbox_outboxmessage RESET (vacuum_index_cleanup, autovacuum_vacuum_scale_factor)")
    (finding,) = vacuum.autovacuum(installation)
    assert finding.level == Level.NOTE
    execute(finding.remedy)
    assert list(vacuum.autovacuum(installation)) == []


def test_dead_rows_that_nobody_removes_are_warned_of(installation: Installation) -> None:
    execute("VACUUM django_outbox_outboxmessage")
    for _ in range(30):
        make_message("consumed")
    OutboxMessage.objects.all().delete()
    execute("SELECT pg_stat_force_next_flush()")
    parameters = {**STORAGE_PARAMETERS, "autovacuum_vacuum_threshold": 20}

    def autovacuum() -> list[Any]:
        return limited(vacuum.autovacuum, installation, TIMES_BEHIND=1, STORAGE_PARAMETERS=parameters)

    (finding,) = wait_until(autovacuum)
    assert finding.level == Level.WARNING
    assert "dead rows; the last vacuum was 0:00:" in finding.summary
    execute("VACUUM django_outbox_outboxmessage")
    wait_until(lambda: not autovacuum())
