"""The table of crash points has every write of relay and consumer, and every call of a broker."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import django_outbox
from django_outbox.brokers import base
from tests.services.crashes import table
from tests.support.watched.broker import LOCAL, WATCHED, WRITTEN_OUT

PACKAGE = Path(django_outbox.__file__).parent
# Methods that send a statement at once. Not update(), which dicts and sets have as well, outside of state/.
WRITES = {"create", "bulk_create", "delete", "_raw_delete", "get_or_create", "update_or_create", "execute", "_execute"}

OF_OTHERS = {
    "state.controls.make_due.work": "operators",
    "state.controls.cancel.work": "operators",
    "state.controls._release": "operators",
    "state.retry._retry": "operators",
    "state.pauses.pause": "operators",
    "state.dialects.base.Dialect.insert": "other databases",
    "state.dialects.base.Dialect.mark_published": "other databases",
    "state.dialects.base.Dialect.postpone": "other databases",
    "state.dialects.base.Dialect.mark_consumed": "other databases",
    "state.inbox._require_room": "other databases; it reads",
    "worker.database_errors._is_read_only": "other databases; it reads",
    "state.dialects.postgresql.PostgreSQL._execute": "named for its callers",
    "state.dialects.postgresql.PostgreSQL._fetch": "named for its callers",
    "worker.pooling.is_behind_pooler": "poolers; it reads",
    "state.inbox.uncount_delivery": "a schema registry that is away",
    "state.slot.replication_slot": "status and metrics; it reads",
}
"""Writes without a crash point, by the reason: who makes them, or what else they need."""


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """The functions that relay and consumer consist of, by module and qualified name."""
    for folder in ("state", "relay", "consumer", "worker"):
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
            yield from _within(ast.parse(path.read_text()), f"{module}.")


def _within(tree: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        name = f"{prefix}{getattr(node, 'name', '')}"
        if isinstance(node, ast.FunctionDef):
            yield name, node
        yield from _within(node, f"{name}." if isinstance(node, ast.FunctionDef | ast.ClassDef) else prefix)


def methods_called(function: ast.FunctionDef) -> Iterator[str]:
    """The names of methods that a function calls itself, not those of functions in it."""
    left = list(ast.iter_child_nodes(function))
    while left:
        node = left.pop()
        if isinstance(node, ast.FunctionDef):
            continue
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.func.attr
        left += ast.iter_child_nodes(node)


@pytest.fixture(scope="module")
def callers() -> set[str]:
    """Functions that the table names."""
    steps = {name for points in table.read().values() for _, name in points}
    return {caller for step in steps for caller in step.partition(":")[0].split(" > ")}


def test_every_write_has_a_crash_point(callers: set[str]) -> None:
    """A new one needs a scenario in tests/services/crashes that passes it, or a reason here."""
    writing = {
        name
        for name, function in functions()
        if any(
            called in WRITES or (called == "update" and name.startswith("state."))
            for called in methods_called(function)
        )
    }
    assert sorted(writing - callers - OF_OTHERS.keys()) == []
    assert sorted(OF_OTHERS.keys() & callers) == []
    assert sorted(OF_OTHERS.keys() - writing) == []


@pytest.mark.parametrize("contract", [base.Broker, base.Producer, base.Subscription])
def test_every_call_of_a_broker_is_a_step(contract: type) -> None:
    """A new method of the contract must be watched, unless it reaches no broker."""
    public = {name for name in vars(contract) if not name.startswith("_")}
    watched = {*WATCHED[contract.__name__], *WRITTEN_OUT[contract.__name__]}
    assert public - LOCAL == watched


def test_every_call_of_a_broker_that_a_worker_makes_has_a_crash_point() -> None:
    calls = {f"{of}.{name}" for watched in (WATCHED, WRITTEN_OUT) for of, names in watched.items() for name in names}
    steps = {name.partition(": ")[2].split(" ")[0] for points in table.read().values() for _, name in points}
    assert calls - steps == {"Broker.topic_settings"}, "the doctor alone asks for the settings of topics"


def test_the_table_names_functions_that_exist(callers: set[str]) -> None:
    """A function that is renamed needs a new table."""
    known = {name for name, _ in functions()}
    folders = ("state.", "relay.", "consumer.", "worker.")
    assert sorted(name for name in callers if name.startswith(folders) and name not in known) == []
