"""What a soak run prints and draws."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from tests.soak import report
from tests.soak.run import Result, limit_of
from tests.soak.sampling import Samples

SECONDS = [10.0 * number for number in range(1, 361)]
FLAT = {
    "memory of relay, MB": 80.0,
    "descriptors of relay": 20,
    "connections": 9,
    "rows": 400_000,
    "tables, MB": 300,
    "indexes, MB": 90,
    "latency p50, ms": 8,
    "latency p99, ms": 40,
}


def result(growing: str = "", handled: int = 1000, dead: int = 0, seconds: float = 3600) -> Result:
    series = {name: [value] * len(SECONDS) for name, value in FLAT.items()}
    if growing:
        series[growing] = [FLAT[growing] * (1 + second / 3600) for second in SECONDS]
    counts = [round(second) for second in SECONDS]
    samples = Samples(seconds=SECONDS, handled=counts, published=counts, series=series)
    return Result(
        highest_rate=2000,
        rate=1000,
        seconds=seconds,
        published=1000,
        handled=handled,
        dead=dead,
        load=0.1,
        versions="PostgreSQL 18.6, Apache Kafka 4.3.0",
        samples=samples,
    )


def test_a_run_in_which_nothing_grows_is_flat() -> None:
    assert result().verdict == "FLAT"
    assert report.text("kafka-python", result()).splitlines()[-1] == (
        "FLAT: kafka-python, 1,000 a second for 3,600 s, 1,000 published, 1,000 handled, 0 dead"
    )


@pytest.mark.parametrize("name", FLAT)
def test_each_measure_may_not_grow(name: str) -> None:
    found = result(growing=name)
    assert found.verdict == "GROWS"
    assert f"not flat: {name}" in report.text("kafka-python", found)


@pytest.mark.parametrize("found", [result(handled=999), result(handled=1001), result(dead=1)])
def test_events_that_are_missing_or_given_up_come_before_trends(found: Result) -> None:
    assert found.verdict == "BROKEN"


def test_a_short_run_judges_no_trend() -> None:
    short = result(growing="connections", seconds=60)
    assert short.verdict == "COMPLETE"
    assert "too short" in report.text("kafka-python", short)
    assert replace(short, dead=1).verdict == "BROKEN"
    with pytest.raises(ValueError, match="too short"):
        report.publish("kafka-python", short)


def test_each_measure_has_a_limit() -> None:
    assert all(limit_of(name).share > 0 for name in FLAT)


def test_the_plot_shows_rate_memory_sizes_and_latency() -> None:
    svg = ElementTree.fromstring(report.draw("kafka-python", result()))  # noqa: S314
    texts = {element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")}
    assert {"handled a second", "memory of relay, MB", "rows", "indexes, MB", "latency p99, ms"} <= texts


def test_the_documentation_shows_each_client() -> None:
    runs = {client: report.summary(result()) for client in ("confluent-kafka", "kafka-python")}
    written = report.page(runs)
    assert written.index("**kafka-python**") < written.index("**confluent-kafka**")
    assert "had 1,000 for 3,600 s: 1,000 published, 1,000 handled once and in order, 0 dead" in written
    assert ".. image:: soak-confluent-kafka.svg" in written
