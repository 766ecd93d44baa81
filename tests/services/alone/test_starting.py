"""A worker that waits for its database ends in time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from tests.support.brokers.proxy import Proxy
from tests.support.processes import Command

pytestmark = pytest.mark.databases("postgresql", "mariadb", "mysql")

Start = Callable[..., Command]

COMMANDS = ["outbox_relay", "outbox_consume"]


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """What stands between a command and its database. It breaks all connections until it is given a target."""
    with Proxy() as proxy:
        yield proxy


@pytest.fixture
def proxied(proxy: Proxy, subprocess_env: dict[str, str]) -> dict[str, str]:
    """The environment of commands whose database is behind the proxy."""
    return {"DATABASE_URL": re.sub(r":\d+/", f":{proxy.port}/", subprocess_env["DATABASE_URL"])}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_worker_that_waits_ends_in_time(name: str, manage: Start, proxied: dict[str, str]) -> None:
    worker = manage(name, env=proxied)
    worker.wait_for_line("The database: ")
    worker.stop_in_time()
    assert worker.output.splitlines()[-1].endswith(" stopped.")
