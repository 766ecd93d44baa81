"""What is measured, and the table of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, NamedTuple

import django_outbox
from benchmarks.backends import CONFLUENT, KAFKA_PYTHON
from benchmarks.publish import BEGIN, where
from benchmarks.report import number
from tests.support.documentation import renew, table
from tests.support.processes import ROOT

PAGE = ROOT / "docs" / "comparison.rst"
HEAD = ("Package", "One per transaction", "500 per transaction", "Relay", "Processor time", "Backlog")


class Peer(NamedTuple):
    """A package, the module that runs it, and how many rows it writes by 500."""

    name: str
    module: str
    many: int
    backend: str = ""
    options: tuple[str, ...] = ()


PEERS = (
    Peer("django-kafka-outbox, confluent-kafka", "ours", 38_000, CONFLUENT),
    Peer("django-kafka-outbox, kafka-python", "ours", 38_000, KAFKA_PYTHON),
    Peer("django-jaiminho", "jaiminho", 3_000),
    Peer("django-outbox-pattern", "pattern", 8_000),
    Peer("django-reliable-outbox", "reliable", 8_000),
    Peer("django-reliable-outbox, 4 threads", "reliable", 8_000, options=("--concurrency", "4")),
)
# What tells the records of a package in Kafka apart; the other package sends by STOMP.
HEADERS = {"ours": "ce_outboxid", "jaiminho": "number", "reliable": "message_id"}


def publish(results: Mapping[str, Any]) -> None:
    """Renew the table of docs/comparison.rst.

    Raises:
        ValueError: these are the results of a smoke test, or there are no figures of a package.
    """
    if results["options"]["quick"]:
        raise ValueError("the run was a smoke test")
    if failed := [peer["name"] for peer in results["peers"] if not peer["rounds"]]:
        raise ValueError(f"no figures of {', '.join(failed)}")
    first = results["peers"][0]["rounds"][0]
    caption = f"{where(results, first['python'])}. All with Django {first['packages']['Django']}:"
    renew(PAGE, BEGIN, f"{caption}\n\n{table(rows(results))}")


def rows(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The head of the table, and a row for each package: medians of its rounds."""
    return [HEAD, *map(_row, results["peers"])]


def _row(peer: Mapping[str, Any]) -> tuple[str, ...]:
    rounds = peer["rounds"]
    if not rounds:
        return (peer["name"], "failed", *[""] * (len(HEAD) - 2))

    def middle(part: str, figure: Callable[[Mapping[str, Any]], float], unit: str) -> str:
        return f"{number(median(figure(each[part]) for each in rounds))} {unit}"

    return (
        _with_version(peer["name"], rounds[0]["packages"]),
        middle("write", _per_second, "rows/s"),
        middle("write_many", _per_second, "rows/s"),
        middle("relay", _per_second, "messages/s"),
        middle("relay", lambda found: 1e6 * found["cpu"] / found["rows"], "µs"),
        number(rounds[0]["relay"]["rows"]),
    )


def _per_second(found: Mapping[str, Any]) -> float:
    return float(found["rows"] / found["seconds"])


def _with_version(name: str, packages: Mapping[str, str]) -> str:
    """The version behind the name; this package is not installed, but read from the sources."""
    package, comma, rest = name.partition(",")
    return f"{package} {packages.get(package, django_outbox.__version__)}{comma}{rest}"
