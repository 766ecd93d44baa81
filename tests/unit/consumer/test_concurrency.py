"""How many lanes a database serves, and how far they read ahead."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_outbox.consumer import concurrency
from django_outbox.consumer.concurrency import read_ahead, require_concurrency


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
