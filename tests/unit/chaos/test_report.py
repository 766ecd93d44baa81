"""What a chaos run prints and draws."""

from __future__ import annotations

from dataclasses import asdict, replace
from xml.etree import ElementTree

import pytest

from tests.chaos.checker import Findings
from tests.chaos.faults import Caused
from tests.chaos.options import Options
from tests.chaos.plan import Planned
from tests.chaos.report import Summary, draw, fastest, page, text
from tests.chaos.run import Result
from tests.chaos.timeline import Counted, Timeline

CAUSED = [Caused(Planned(1.0, "broker-kill", "broker-2", 4.0), 1.0, 5.5), Caused(Planned(2.0, "cut", "database"), 2, 2)]


def result(lost: int = 0, errors: list[str] | None = None, drained: float | None = 12.0) -> Result:
    return Result(
        findings=Findings(6, 0, lost, 0, 0, 0, 0),
        timeline=Timeline([3, 2, 1, 0], [0, 1, 0, 5]),
        counted=Counted(resent=3, failed=1, dead=0),
        caused=CAUSED,
        errors=errors or [],
        drained=drained,
        releases={1: 2, 2: 4},
        old="",
        gaps="",
        load=0.5,
    )


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (result(), "HOLDS"),
        (result(lost=1), "BROKEN"),
        (result(errors=["relay-1 exited with 1"]), "BROKEN"),
        (result(drained=None), "NOT DRAINED"),
        (result(lost=1, drained=None), "BROKEN"),
    ],
    ids=["right", "lost", "a worker that ended", "not drained", "lost and not drained"],
)
def test_the_last_line_is_the_verdict(found: Result, verdict: str) -> None:
    assert found.verdict == verdict
    last = text(Summary.of(Options(), found), found).splitlines()[-1]
    assert last.startswith(f"{verdict}: seed 1, kafka-python, 180 s, 2 faults, 6 flights handled: unpublished 0, lost ")


def test_the_backlog_is_what_is_published_and_not_handled() -> None:
    assert result().timeline.backlog == [3, 4, 5, 0]
    assert Summary.of(Options(), result()).backlog == 5


@pytest.mark.parametrize(
    ("counts", "rate"),
    [([], 0), ([4], 4), ([4, 2], 3), ([0] * 20 + [10] * 5, 5), ([7] * 10 + [1], 7)],
    ids=["none", "one", "few", "a burst", "at the beginning"],
)
def test_the_rate_after_the_faults_is_that_of_the_fastest_ten_seconds(counts: list[int], rate: float) -> None:
    assert fastest(counts) == rate


def test_the_rate_after_the_faults_begins_at_the_end_of_the_last_one() -> None:
    found = replace(result(), timeline=Timeline([0] * 20, [50] * 6 + [7] * 14))
    assert Summary.of(Options(), found).drain_rate == round((50 + 9 * 7) / 10)


def test_the_plot_marks_each_fault() -> None:
    svg = draw(Summary.of(Options(), result()), result())
    titles = [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}title")]  # noqa: S314
    assert titles[1:] == ["1 s: broker-kill broker-2 for 4.0 s", "2 s: cut database"]


def test_the_documentation_shows_each_client() -> None:
    runs = {
        client: asdict(Summary.of(Options(backend=backend), result()))
        for backend, client in (("confluent", "confluent-kafka"), ("kafka", "kafka-python"))
    }
    written = page(runs)
    rows = [line.split("  ") for line in written.splitlines()]
    table = {row[0]: [cell.strip() for cell in row[1:] if cell] for row in rows if row}
    assert table["Run"] == ["kafka-python", "confluent-kafka"]
    assert table["Lost"] == ["0", "0"]
    assert table["``cut``"] == ["1", "1"]
    assert ".. image:: chaos-confluent-kafka.svg" in written
