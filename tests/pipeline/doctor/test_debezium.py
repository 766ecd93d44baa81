"""Debezium's side of PostgreSQL: each fault in one sentence, and none where all is as documented."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection

from django_outbox.operations.doctor.base import Finding, Installation, Level
from django_outbox.operations.doctor.debezium import debezium
from django_outbox.state import slot as slots
from tests.support.debezium import execute, query, reading, set_up, tear_down
from tests.support.doctor import limited
from tests.support.overrides import outbox_settings

pytestmark = [
    pytest.mark.databases("postgresql", since=15),
    pytest.mark.django_db(transaction=True),
    pytest.mark.xdist_group("debezium"),
]

TABLE = "django_outbox_outboxmessage"
CREATE_SLOT = "SELECT pg_create_logical_replication_slot('outbox_tests', 'pgoutput')"
DROP_SLOT = "SELECT pg_drop_replication_slot('outbox_tests')"


@pytest.fixture(autouse=True)
def prepared() -> Iterator[None]:
    """The database as documented."""
    with outbox_settings(PUBLISHER="debezium"):
        set_up()
        yield
        tear_down()


def found(installation: Installation, least: Level = Level.WARNING) -> list[Finding]:
    """What is worse than a note. With a slot that is read, and without."""
    with reading("outbox_tests"):
        return [finding for finding in debezium(installation) if finding.level >= least]


def summary(installation: Installation) -> str:
    (finding,) = found(installation)
    return finding.summary


def test_there_is_nothing_to_say_where_all_is_as_documented(installation: Installation) -> None:
    assert found(installation) == []


# The server


def test_a_server_before_15_cannot_do_it(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    value = installation.value

    def older(query: str, *arguments: Any) -> Any:
        if "server_version" in query:
            return "140012" if "num" in query else "14.12"
        return value(query, *arguments)

    monkeypatch.setattr(installation, "value", older)
    assert summary(installation) == "The server is PostgreSQL 14.12; Debezium needs 15 or later here."


def test_wal_level_must_be_logical(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    value = installation.value
    monkeypatch.setattr(
        installation,
        "value",
        lambda query, *arguments: "replica" if "wal_level" in query else value(query, *arguments),
    )
    (finding,) = found(installation)
    assert finding.level == Level.FAULT
    assert finding.summary == "The server has wal_level = replica."


def test_wal_without_a_limit_is_noted(installation: Installation) -> None:
    with reading("outbox_tests"):
        (finding,) = debezium(installation)
    assert finding.level == Level.NOTE
    assert finding.summary == "The server has max_slot_wal_keep_size = -1: no limit."


# The publication


@pytest.mark.parametrize(
    ("change", "level", "sentence"),
    [
        (
            f"SET TABLE {TABLE}",
            Level.FAULT,
            "The publication outbox_tests has no row filter.",
        ),
        (
            f"SET TABLE {TABLE} WHERE (source = 'tests')",
            Level.FAULT,
            "The row filter of the publication outbox_tests includes pending messages, consumed messages, messages without a "
            "key, messages that a relay has sent.",
        ),
        (
            f"SET TABLE {TABLE} WHERE (status = 'published' AND publish_count = 1 AND message_key <> '' AND \"offset\" IS NULL)",
            Level.FAULT,
            "The row filter of the publication outbox_tests includes messages of other services.",
        ),
        (
            f"SET TABLE {TABLE} WHERE (source LIKE '100%')",
            Level.FAULT,
            "The row filter of the publication outbox_tests excludes messages of 'tests'.",
        ),
        (
            "SET TABLE tests_app_effect",
            Level.FAULT,
            "The publication outbox_tests does not have the table django_outbox_outboxmessage.",
        ),
        (
            "SET (publish = 'delete')",
            Level.FAULT,
            "The publication outbox_tests does not publish inserts.",
        ),
        (
            "SET (publish = 'insert, delete')",
            Level.WARNING,
            "The publication outbox_tests publishes more than inserts.",
        ),
    ],
)
def test_a_publication_must_have_the_rows_of_debezium(
    installation: Installation, change: str, level: Level, sentence: str
) -> None:
    execute(f"ALTER PUBLICATION outbox_tests {change}")
    (finding,) = found(installation)
    assert (finding.level, finding.summary) == (level, sentence)


@pytest.mark.parametrize("name", ["outbox_tests", "2nd_shop"])
@pytest.mark.parametrize(
    "made",
    [
        f"FOR TABLE {TABLE}",
        "FOR TABLE tests_app_effect",
        f"FOR TABLE {TABLE} WHERE (source = 'tests') WITH (publish = 'insert')",
        "FOR TABLES IN SCHEMA public WITH (publish = 'insert')",
        "FOR ALL TABLES",
        "FOR ALL TABLES WITH (publish = 'delete')",
    ],
)
def test_the_remedies_for_a_publication_work(installation: Installation, made: str, name: str) -> None:
    execute("DROP PUBLICATION outbox_tests", f'CREATE PUBLICATION "{name}" {made}')
    names = {"SLOT": "outbox_tests", "PUBLICATION": name}
    with outbox_settings(PUBLISHER="debezium", DEBEZIUM=names), reading("outbox_tests", name):
        findings = [finding for finding in debezium(installation) if finding.level >= Level.WARNING]
        assert findings
        execute(*(finding.remedy for finding in findings))
        assert [finding for finding in debezium(installation) if finding.level >= Level.WARNING] == []
    if name != "outbox_tests":
        execute(f'ALTER PUBLICATION "{name}" RENAME TO outbox_tests')


def test_a_publication_for_all_tables_has_no_filter(installation: Installation) -> None:
    execute("DROP PUBLICATION outbox_tests", "CREATE PUBLICATION outbox_tests FOR ALL TABLES WITH (publish = 'insert')")
    assert summary(installation) == "The publication outbox_tests has no row filter."


def test_a_publication_must_exist(installation: Installation) -> None:
    execute("ALTER PUBLICATION outbox_tests RENAME TO other")
    assert summary(installation) == "The publication outbox_tests does not exist."
    execute("ALTER PUBLICATION other RENAME TO outbox_tests")


# The slot


def test_a_slot_must_exist(installation: Installation) -> None:
    execute(DROP_SLOT)
    (finding,) = [each for each in debezium(installation) if each.level > Level.NOTE]
    assert finding.summary == "The replication slot outbox_tests does not exist."
    assert "outbox_debezium --sql" in finding.remedy
    assert 'set PUBLISHER to "relay"' in finding.remedy
    execute(CREATE_SLOT)


def test_a_slot_must_be_read(installation: Installation) -> None:
    (finding,) = debezium(installation)
    assert finding.level == Level.FAULT
    assert re.fullmatch(r"Nothing reads the replication slot outbox_tests(, for \d+:\d\d:\d\d now)?\.", finding.summary)
    assert "So far: " in finding.why


def test_a_slot_may_be_taken_by_another_connector(installation: Installation) -> None:
    with reading("outbox_tests", publication="dbz_publication") as pid:
        findings = [finding for finding in debezium(installation) if finding.level > Level.NOTE]
    (finding,) = findings
    assert finding.level == Level.FAULT
    assert finding.summary.startswith(f"The replication slot outbox_tests is taken: session {pid} of postgres ")
    assert finding.summary.endswith("for the publication dbz_publication, not outbox_tests.")


def test_a_slot_is_for_one_plugin(installation: Installation) -> None:
    execute(DROP_SLOT, "SELECT pg_create_physical_replication_slot('outbox_tests')")
    (finding,) = debezium(installation)
    name = connection.settings_dict["NAME"]
    assert finding.summary == (
        f"The replication slot outbox_tests was created for a standby, not for pgoutput in {name}."
    )
    execute(DROP_SLOT, CREATE_SLOT)


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        ("lost", "The server has removed WAL that the replication slot outbox_tests needs (wal_status = lost)."),
        (
            "unreserved",
            "The server is about to remove WAL that the replication slot outbox_tests needs (wal_status = unreserved).",
        ),
    ],
)
def test_wal_that_is_gone_is_a_fault(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, status: str, sentence: str
) -> None:
    monkeypatch.setattr(slots, "_SLOT", slots._SLOT.replace("slot.wal_status", f"'{status}'"))
    (finding,) = found(installation)
    assert finding.summary == sentence
    assert ('set PUBLISHER to "relay"' in finding.remedy) == (status == "lost")


def test_much_wal_is_a_warning(installation: Installation) -> None:
    with reading("outbox_tests"):
        finding, _ = limited(debezium, installation, MUCH_WAL=0)
    assert finding.level == Level.WARNING
    assert finding.summary.startswith("The server keeps ")


def test_a_forgotten_slot_is_a_warning(installation: Installation) -> None:
    with outbox_settings(PUBLISHER="relay"):
        (finding,) = debezium(installation)
        assert finding.level == Level.WARNING
        assert (
            finding.summary == 'The replication slot outbox_tests exists, nothing reads it, and PUBLISHER is "relay".'
        )
        with reading("outbox_tests"):
            assert list(debezium(installation)) == []
        execute(DROP_SLOT)
        assert list(debezium(installation)) == []
    execute(CREATE_SLOT)


def test_a_role_without_privileges_gets_the_same_answers(installation: Installation) -> None:
    execute("CREATE ROLE plain", f"GRANT SELECT ON {TABLE} TO plain")
    try:
        with reading("outbox_tests"):
            execute("SET ROLE plain")
            findings = list(debezium(installation))
            execute("RESET ROLE")
        assert [finding.level for finding in findings] == [Level.NOTE]
        assert query("SELECT current_user") == [("postgres",)]
    finally:
        execute("RESET ROLE", f"REVOKE ALL ON {TABLE} FROM plain", "DROP ROLE plain")
