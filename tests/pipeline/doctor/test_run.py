"""All checks together, and the command: they change nothing, never hang, and report what they had to skip."""

from __future__ import annotations

import io
import json
import re
import threading
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, connections

from django_outbox.brokers.memory import MemoryBroker
from django_outbox.exceptions import BrokerUnavailable
from django_outbox.management.commands import outbox_doctor
from django_outbox.models import Activity, Worker
from django_outbox.operations.doctor import base
from django_outbox.operations.doctor.base import Installation, Level, fault, note, warning
from django_outbox.operations.doctor.run import CHECKS, Check, Result, run_checks
from tests.pipeline.doctor.test_workers import make_worker
from tests.support.overrides import outbox_settings
from tests.support.processes import ROOT

pytestmark = pytest.mark.django_db(transaction=True)


def doctor(*arguments: str) -> tuple[int, str]:
    """The exit code, and what was printed."""
    out = io.StringIO()
    try:
        call_command("outbox_doctor", *arguments, stdout=out, no_color=True)
    except SystemExit as ended:
        return int(ended.code or 0), out.getvalue()
    return 0, out.getvalue()


def only(find: Any, seconds: float = 60, **options: Any) -> Result:
    """The result of a check of the test's own."""
    (result,) = run_checks(Installation("default"), checks=[Check("test", find, "fine", **options)], timeout=seconds)
    return result


def test_of_a_healthy_installation_there_is_nothing_to_report() -> None:
    make_worker("relay")
    make_worker("consumer")
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("VACUUM django_outbox_outboxmessage")  # other tests may have left much behind
    results = list(run_checks(Installation("default")))
    assert {result.check.name: result.findings for result in results if result.findings} == {
        "retention": (
            note(
                "The broker does not report the retention of outbox.",  # the one in memory keeps all records
                "Some brokers never do; others require the permission DescribeConfigs.",
                "Make sure that records are kept longer than any consumer may be down.",
            ),
        )
    }
    expected = [each for each in CHECKS if each.vendors is None or connection.vendor in each.vendors]
    assert [result.check for result in results] == expected


@pytest.mark.parametrize("needs_broker", [False, True])
def test_no_check_can_change_anything(needs_broker: bool) -> None:
    if needs_broker and connection.vendor != "sqlite":
        return  # such a one is in no transaction, and has no statement that could

    def change(installation: Installation) -> Any:
        Activity.objects.create(period="2026-01-01T00:00Z")
        yield fault("changed")

    (finding,) = only(change, needs_broker=needs_broker).findings
    assert finding.level == Level.WARNING
    assert finding.summary.startswith("The check failed: ")
    assert not Activity.objects.exists()


def test_a_check_that_hangs_is_left_behind() -> None:
    never = threading.Event()

    def hang(installation: Installation) -> Any:
        never.wait()
        yield fault("too late")

    try:
        hangs = only(hang, seconds=0.1)
        works = only(lambda installation: [])
    finally:
        never.set()
    assert [hangs.level, works.level] == [Level.WARNING, Level.OK]
    assert "no answer within 1.1 s" in hangs.findings[0].summary


@pytest.mark.databases("postgresql")
def test_a_query_that_takes_too_long_is_ended_by_the_server() -> None:
    def sleep(installation: Installation) -> Any:
        installation.rows("SELECT pg_sleep(60)")
        yield fault("slept")

    (result,) = run_checks(Installation("default"), checks=[Check("sleeps", sleep, "")], timeout=2)
    assert "canceling statement due to statement timeout" in result.findings[0].summary


def test_an_error_in_one_check_stops_no_other() -> None:
    def fail(installation: Installation) -> Any:
        raise DatabaseError("permission denied\nfor view pg_stat_activity")

    (finding,) = only(fail).findings
    assert finding == warning("The check failed: DatabaseError: permission denied for view pg_stat_activity")


def test_without_tables_what_needs_them_says_only_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker._meta, "db_table", "not_there")
    results = {result.check.name: result for result in run_checks(Installation("default"))}
    assert results["relays"].findings == (warning("Skipped: not all tables of the outbox exist."),)
    assert results["indexes"].findings[0].summary == "The table not_there does not exist."


def test_a_failed_check_does_not_look_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryBroker, "missing_topics", away)
    code, text = doctor("--only", "topics")
    assert code == 1
    assert "warning  topics" in text


def test_a_broker_that_does_not_answer_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryBroker, "missing_topics", away)
    results = {result.check.name: result for result in run_checks(Installation("default"))}
    assert results["broker"].level == Level.FAULT
    for name in ("topics", "partitions", "retention"):
        assert results[name].findings == (warning("Skipped: the broker does not answer."),)


def away(self: MemoryBroker, topics: Any) -> Any:
    raise BrokerUnavailable("Nobody is there.")


@pytest.mark.databases("postgresql", "mariadb", "mysql")
def test_a_database_that_does_not_answer_is_a_fault_and_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.databases["default"], "PORT", "1")
    results = {result.check.name: result for result in run_checks(Installation("default"))}
    (finding,) = results["database"].findings
    assert finding.level == Level.FAULT
    assert finding.summary.startswith("The database 'default' does not answer (OperationalError: ")
    assert results["indexes"].findings == (warning("Skipped: the database does not answer."),)
    assert results["handlers"].level == Level.OK
    assert results["broker"].level == Level.OK


def test_a_fault_in_the_settings_is_found() -> None:
    with outbox_settings(TOPICS="x"):
        (result,) = run_checks(Installation("default"), checks=[e for e in CHECKS if e.name == "checks"])
    (finding,) = result.findings
    assert (finding.level, finding.summary) == (Level.FAULT, "OUTBOX has an unknown key 'TOPICS'.")
    assert finding.remedy == "Did you mean 'TOPIC'?"


# The command


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the checks find what a test says."""

    def found(*findings: Any) -> None:
        checks = [
            Check("first", lambda installation: list(findings), "The first is fine."),
            Check("second", lambda installation: [], "The second is fine."),
        ]
        monkeypatch.setattr(outbox_doctor, "CHECKS", checks)

    return found


def test_the_command_prints_what_is_wrong_why_and_what_to_do(found: Any) -> None:
    found(note("A note."), fault("It is broken.", "It hurts.", "Mend it."))
    code, text = doctor()
    assert code == 2
    lines = [line.split(maxsplit=2) for line in text.splitlines()]
    assert lines[:5] == [
        ["fault", "first", "It is broken."],
        ["why:", "It", "hurts."],
        ["do:", "Mend", "it."],
        ["note", "first", "A note."],
        ["ok", "second", "The second is fine."],
    ]
    assert text.rstrip().endswith("2 checks: 1 fault, 1 note.")


@pytest.mark.parametrize(
    ("finding", "arguments", "code"),
    [
        (note("n"), [], 0),
        (warning("w"), [], 1),
        (fault("f"), [], 2),
        (warning("w"), ["--fail-on", "fault"], 0),
        (fault("f"), ["--fail-on", "fault"], 2),
        (fault("f"), ["--fail-on", "never"], 0),
    ],
)
def test_the_exit_code_says_how_bad_it_is(found: Any, finding: Any, arguments: list[str], code: int) -> None:
    found(finding)
    assert doctor(*arguments)[0] == code
    assert doctor("--json", *arguments)[0] == code


def test_json_tells_the_same(found: Any) -> None:
    found(warning("It creaks.", "It is old.", "Oil it."))
    assert json.loads(doctor("--json")[1]) == {
        "level": "warning",
        "examinations": [
            {
                "name": "first",
                "level": "warning",
                "findings": [{"level": "warning", "summary": "It creaks.", "why": "It is old.", "remedy": "Oil it."}],
            },
            {"name": "second", "level": "ok", "findings": []},
        ],
    }


def test_single_checks_may_be_selected_and_the_broker_left_out() -> None:
    assert doctor("--only", "migrations", "handlers")[1].count("\n") == 4
    names = {each["name"] for each in json.loads(doctor("--json", "--no-broker")[1])["examinations"]}
    assert not names & {"broker", "topics", "partitions", "retention"}
    with pytest.raises(CommandError, match="invalid choice: 'tpyo'"):
        doctor("--only", "tpyo")


def test_the_command_says_nothing_else_and_leaves_the_broker_only_one_question(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []
    real = base.query_broker
    monkeypatch.setattr(base, "query_broker", lambda *arguments: asked.append(1) or real(*arguments))  # type: ignore[func-returns-value]
    doctor()
    assert len(asked) == 1
    assert capsys.readouterr() == ("", "")


def test_the_documentation_names_all_checks() -> None:
    documented = re.findall(r"^``([a-z][a-z-]+)``  ", (ROOT / "docs" / "doctor.rst").read_text(), re.MULTILINE)
    assert documented == [check.name for check in CHECKS]
