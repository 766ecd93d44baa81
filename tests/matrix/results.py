"""The results of the last run on each server, and the table that the README makes of them."""

from __future__ import annotations

import json
from typing import NamedTuple

from tests.matrix.combinations import COMBINATIONS, WITH_EACH_CHANGE
from tests.support import documentation
from tests.support.documentation import renew
from tests.support.processes import ROOT

DATA = ROOT / "tests" / "matrix" / "results.json"
PAGE = ROOT / "README.rst"
BEGIN = ".. The matrix writes from here"


class Result(NamedTuple):
    """A run in which every test passed.

    Attributes:
        version: what the server was, exactly.
        django: the version of Django.
        ran: the day, in UTC.
        passed: how many tests.
    """

    version: str
    django: str
    ran: str
    passed: int


def read() -> dict[str, Result]:
    """The results, by the name of the combination."""
    return {name: Result(**entry) for name, entry in json.loads(DATA.read_text()).items()}


def write(results: dict[str, Result]) -> None:
    """Store results and renew the table. What the matrix no longer has is left out."""
    known = [each.name for each in COMBINATIONS if each.name in results]
    kept = {name: results[name] for name in known}
    DATA.write_text(json.dumps({name: result._asdict() for name, result in kept.items()}, indent=1) + "\n")
    renew(PAGE, BEGIN, table(kept))


def table(results: dict[str, Result]) -> str:
    """The table in reStructuredText. A server without a result is not in it."""
    steady = [(each.name, each.django, "with each change", each.note) for each in WITH_EACH_CHANGE]
    last = [
        (
            each.name if each.name[-1].isdigit() else _named(each.name, results[each.name]),
            ".".join(results[each.name].django.split(".")[:2]),
            results[each.name].ran,
            each.note,
        )
        for each in COMBINATIONS
        if each.name in results
    ]
    return documentation.table([("Server", "Django", "Last passed", "With"), *steady, *last])


def _named(name: str, result: Result) -> str:
    """With the release that was tested, where the combination does not choose one."""
    return f"{name} {'.'.join(result.version.split()[1].split('.')[:2])}" if " " not in name else name
