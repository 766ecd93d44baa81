"""All examinations together, and the command: they change nothing, never hang, and say what they could not do."""

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
from django_outbox.operations.doctor import subject as subjects
from django_outbox.operations.doctor.examine import EXAMINATIONS, Examination, Result, examine
from django_outbox.operations.doctor.finding import Level, fault, note, warning
from django_outbox.operations.doctor.subject import Subject
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
    """What an examination of the test's own comes to."""
    (result,) = examine(
        Subject("default"), examinations=[Examination("test", find, "fine", **options)], seconds=seconds
    )
    return result


def test_of_a_healthy_installation_there_is_nothing_to_report() -> None:
    make_worker("relay")
    make_worker("consumer")
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("VACUUM django_outbox_outboxmessage")  # other tests may have left much behind
    results = list(examine(Subject("default")))
    assert {result.examination.name: result.findings for result in results if result.findings} == {
        "retention": (
            note(
                "The broker does not tell how long it keeps the records of outbox.",  # one in memory keeps all
                "Not every broker does, and some only to those with the permission DescribeConfigs.",
                "See for yourself that they are kept for longer than any consumer may be away.",
            ),
        )
    }
    expected = [each for each in EXAMINATIONS if each.vendors is None or connection.vendor in each.vendors]
    assert [result.examination for result in results] == expected


@pytest.mark.parametrize("asks_broker", [False, True])
def test_no_examination_can_change_anything(asks_broker: bool) -> None:
    if asks_broker and connection.vendor != "sqlite":
        return  # such a one is in no transaction, and has no statement that could

    def change(subject: Subject) -> Any:
        Activity.objects.create(period="2026-01-01T00:00Z")
        yield fault("changed")

    (finding,) = only(change, asks_broker=asks_broker).findings
    assert finding.level == Level.WARNING
    assert finding.summary.startswith("Could not be examined: ")
    assert not Activity.objects.exists()


def test_an_examination_that_hangs_is_left_behind() -> None:
    never = threading.Event()

    def hang(subject: Subject) -> Any:
        never.wait()
        yield fault("too late")

    try:
        hangs = only(hang, seconds=0.1)
        works = only(lambda subject: [])
    finally:
        never.set()
    assert [hangs.level, works.level] == [Level.WARNING, Level.OK]
    assert "no answer within 1.1 s" in hangs.findings[0].summary


@pytest.mark.databases("postgresql")
def test_a_query_that_takes_too_long_is_ended_by_the_server() -> None:
    def sleep(subject: Subject) -> Any:
        subject.rows("SELECT pg_sleep(60)")
        yield fault("slept")

    (result,) = examine(Subject("default"), examinations=[Examination("sleeps", sleep, "")], seconds=2)
    assert "canceling statement due to statement timeout" in result.findings[0].summary


def test_an_error_in_one_examination_keeps_no_other_from_being_made() -> None:
    def fail(subject: Subject) -> Any:
        raise DatabaseError("permission denied\nfor view pg_stat_activity")

    (finding,) = only(fail).findings
    assert finding == warning("Could not be examined: DatabaseError: permission denied for view pg_stat_activity")


def test_without_tables_what_needs_them_says_only_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker._meta, "db_table", "not_there")
    results = {result.examination.name: result for result in examine(Subject("default"))}
    assert results["relays"].findings == (warning("Not examined: the tables of the outbox are not all there."),)
    assert results["indexes"].findings[0].summary == "The table not_there is not there."


def test_what_could_not_be_examined_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryBroker, "missing_topics", away)
    code, text = doctor("--only", "topics")
    assert code == 1
    assert "warning  topics" in text


def away(self: MemoryBroker, topics: Any) -> Any:
    raise BrokerUnavailable("Nobody is there.")


@pytest.mark.databases("postgresql", "mariadb")
def test_a_database_that_does_not_answer_is_a_fault_and_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.databases["default"], "PORT", "1")
    results = {result.examination.name: result for result in examine(Subject("default"))}
    (finding,) = results["database"].findings
    assert finding.level == Level.FAULT
    assert finding.summary.startswith("The database 'default' does not answer (OperationalError: ")
    assert results["indexes"].findings == (warning("Not examined: the database does not answer."),)
    assert results["handlers"].level == Level.OK
    assert results["broker"].level == Level.OK


def test_a_fault_in_the_settings_is_found() -> None:
    with outbox_settings(TOPICS="x"):
        (result,) = examine(Subject("default"), examinations=[e for e in EXAMINATIONS if e.name == "checks"])
    (finding,) = result.findings
    assert (finding.level, finding.summary) == (Level.FAULT, "OUTBOX has an unknown key 'TOPICS'.")
    assert finding.remedy == "Did you mean 'TOPIC'?"


# The command


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the examinations find what a test says."""

    def found(*findings: Any) -> None:
        examinations = [
            Examination("first", lambda subject: list(findings), "The first is fine."),
            Examination("second", lambda subject: [], "The second is fine."),
        ]
        monkeypatch.setattr(outbox_doctor, "EXAMINATIONS", examinations)

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
    assert text.rstrip().endswith("2 examinations: 1 fault, 1 note.")


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


def test_single_examinations_may_be_asked_for_and_the_broker_left_out() -> None:
    assert doctor("--only", "migrations", "handlers")[1].count("\n") == 4
    names = {each["name"] for each in json.loads(doctor("--json", "--no-broker")[1])["examinations"]}
    assert not names & {"broker", "topics", "partitions", "retention"}
    with pytest.raises(CommandError, match="invalid choice: 'tpyo'"):
        doctor("--only", "tpyo")


def test_the_command_says_nothing_else_and_leaves_the_broker_only_one_question(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []
    real = subjects.ask
    monkeypatch.setattr(subjects, "ask", lambda *arguments: asked.append(1) or real(*arguments))  # type: ignore[func-returns-value]
    doctor()
    assert len(asked) == 1
    assert capsys.readouterr() == ("", "")


def test_the_documentation_names_all_examinations() -> None:
    documented = re.findall(r"^``([a-z][a-z-]+)``  ", (ROOT / "docs" / "doctor.rst").read_text(), re.MULTILINE)
    assert documented == [examination.name for examination in EXAMINATIONS]
