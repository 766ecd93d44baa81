"""Relay and consumer are killed before and after each call of the database and the broker.

Whatever the step, nothing is lost, each event has its effect once and in order, and no lock stays. The steps are those of
the table, ``steps.json``. A step that is not there fails the suite; see "Crash points" in ``CONTRIBUTING.rst``.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections

from tests.services.crashes import table
from tests.services.crashes.chain import run
from tests.services.crashes.scenarios import HELD_ELSEWHERE, SCENARIOS
from tests.services.crashes.table import Point
from tests.support.watched.processes import Zygote

pytestmark = [pytest.mark.databases("postgresql"), pytest.mark.django_db(transaction=True)]

KILLS_EACH = 8
"""Kills of one test; so many that a slow machine does not reach the time limit of a test."""
AT_ONCE = 4
ADVICE = (
    "Read how the package would behave if it were killed there, then run "
    "pytest --database postgresql --record-steps tests/services/crashes, and commit the table."
)
TABLE = table.read()


def _kills() -> Iterator[object]:
    for scenario, points in table.kills(TABLE).items():
        for start in range(0, len(points), KILLS_EACH):
            part = points[start : start + KILLS_EACH]
            yield pytest.param(
                scenario, part, id=f"{scenario.replace(': ', '-').replace(' ', '-')}-{start // KILLS_EACH + 1}"
            )


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_step_is_in_the_table(scenario: str, zygote: Zygote, kafka_url: str, pytestconfig: pytest.Config) -> None:
    """Nobody is killed, and all ends as it must."""
    steps = run(SCENARIOS[scenario], zygote, kafka_url).steps
    varying = table.BY_DJANGO if scenario == HELD_ELSEWHERE else table.BY_DJANGO | {table.LOOK}
    passed = [point for point in steps if point[1] not in varying]

    if pytestconfig.option.record_steps:
        table.write(scenario, passed, SCENARIOS)
        return
    known = {point for points in TABLE.values() for point in points}
    new = [" ".join(point) for point in passed if point not in known]
    assert not new, f"steps without a crash point: {new}. {ADVICE}"
    gone = [" ".join(point) for point in TABLE[scenario] if point not in passed]
    assert not gone, f"steps that are no longer passed: {gone}. {ADVICE}"


@pytest.mark.parametrize(("scenario", "points"), list(_kills()))
def test_a_process_that_is_killed_at_a_step_loses_nothing_and_does_nothing_twice(
    scenario: str, points: list[Point], zygote: Zygote, kafka_url: str
) -> None:
    def kill(point: Point) -> str:
        try:
            run(SCENARIOS[scenario], zygote, kafka_url, point)
        except Exception as error:  # all are reported together
            return f"killed {' '.join(point)}: {type(error).__name__}: {error}"
        finally:
            connections.close_all()
        return ""

    with ThreadPoolExecutor(AT_ONCE) as pool:
        failures = list(filter(None, pool.map(kill, points)))
    assert not failures, "\n\n".join(failures)
