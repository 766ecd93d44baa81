"""A worker that starts while the database is away waits for it, as it does when the database goes away later."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.brokers.proxy import Proxy
from tests.support.processes import Command

pytestmark = pytest.mark.databases("postgresql", "mariadb", "mysql")

Start = Callable[..., Command]


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """What stands between a command and its database. It breaks all connections until it is given a target."""
    with Proxy() as proxy:
        yield proxy


@pytest.fixture
def proxied(proxy: Proxy, subprocess_env: dict[str, str]) -> dict[str, str]:
    """The environment of commands whose database is behind the proxy."""
    return {"DATABASE_URL": re.sub(r":\d+/", f":{proxy.port}/", subprocess_env["DATABASE_URL"])}


@pytest.fixture
def database_port(subprocess_env: dict[str, str]) -> int:
    return int(re.findall(r":(\d+)/", subprocess_env["DATABASE_URL"])[0])


def test_workers_wait_for_the_database_and_then_work(
    manage: Start, proxy: Proxy, proxied: dict[str, str], database_port: int, send: Any, consumed: Any
) -> None:
    send("test.effect")
    workers = [manage("outbox_relay", "--create-topics", env=proxied), manage("outbox_consume", env=proxied)]
    for worker in workers:
        worker.wait_for_line(r" ERROR The database: .* Trying again until it works\.")
    proxy.target = database_port
    consumed(1)
    for worker in workers:
        assert worker.stop() == 0
        assert "Traceback" not in worker.output
