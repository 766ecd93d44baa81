"""How many lanes a database serves, and how far they read ahead."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_outbox.consumer import concurrency
from django_outbox.consumer.concurrency import make_lanes, read_ahead, require_concurrency
from django_outbox.consumer.lanes import Lane
from django_outbox.handlers.registry import GroupHandlers, Registry
from django_outbox.worker.prepared_statements import PreparedStatements
from django_outbox.worker.state import WorkerState
from tests.support.clock import Clock


def serve(monkeypatch: pytest.MonkeyPatch, vendor: str = "postgresql", pool: Any = None) -> None:
    options = {} if pool is None else {"pool": pool}
    connection = SimpleNamespace(vendor=vendor, settings_dict={"OPTIONS": options})
    monkeypatch.setattr(concurrency, "connections", {"orders": connection})


def test_sqlite_serves_one_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, "sqlite")
    require_concurrency(1, "orders")
    with pytest.raises(ImproperlyConfigured, match="CONCURRENCY must be 1 for the database 'orders', not 2"):
        require_concurrency(2, "orders")


@pytest.mark.parametrize(
    ("pool", "lanes"),
    [
        (None, 100),
        (False, 100),
        ({"max_size": 6}, 4),
        ({"min_size": 6}, 4),
        (True, 2),
        ({"min_size": 6, "max_size": 5}, 3),
    ],
)
def test_each_lane_has_a_connection_and_the_consumer_two(
    monkeypatch: pytest.MonkeyPatch, pool: Any, lanes: int
) -> None:
    serve(monkeypatch, pool=pool)
    require_concurrency(lanes, "orders")
    if pool:
        expected = f"CONCURRENCY {lanes + 1} needs {lanes + 3} connections, but the pool .* 'orders' has {lanes + 2}:"
        with pytest.raises(ImproperlyConfigured, match=expected):
            require_concurrency(lanes + 1, "orders")


def test_a_single_lane_may_have_a_pool_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, pool={"max_size": 2})
    require_concurrency(1, "orders")


@pytest.mark.parametrize(("batch_size", "lanes", "records"), [(100, 1, 100), (100, 2, 2000), (1, 2, 128)])
def test_several_lanes_read_further_ahead(batch_size: int, lanes: int, records: int) -> None:
    assert read_ahead(batch_size, lanes) == records


@pytest.mark.parametrize(("count", "size"), [(1, 2.0), (2, 1.0), (3, 1.0)])
def test_each_lane_has_an_engine_and_statements_of_its_own(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, count: int, size: float
) -> None:
    """A single one works on the connection of the consumer."""
    made: list[tuple[Any, ...]] = []

    class Noted(Lane):
        def __init__(self, *arguments: Any) -> None:
            made.append(arguments)
            super().__init__(*arguments)

    monkeypatch.setattr(concurrency, "Lane", Noted)
    outbox: Any = SimpleNamespace()
    inbox: Any = SimpleNamespace(with_engine=lambda engine: engine)
    breaker: Any = SimpleNamespace()
    prepared = PreparedStatements("default", clock)
    lanes = make_lanes(
        count,
        outbox,
        inbox,
        prepared,
        breaker,
        using="default",
        handlers=GroupHandlers(Registry(), "tests"),
        batch_size=10,
        worker_state=WorkerState("consumer", clock),
        clock=clock,
    )
    numbers, engines, outboxes, inboxes, statements = zip(*made, strict=True)
    assert numbers == tuple(range(1, count + 1))
    assert [engine.transaction_size for engine in engines] == [size] * count
    assert (set(map(id, outboxes)), inboxes) == ({id(outbox)}, engines)
    assert len({*map(id, statements), id(prepared)}) == (1 if count == 1 else count + 1)
    assert lanes.read_ahead == read_ahead(10, count)
