"""The database server is killed under running workers: nothing is lost, nothing is handled twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections

from django_outbox.models import OutboxMessage
from tests.conftest import database_key
from tests.support.processes import Command, wait_until

Start = Callable[..., Command]


def assert_all_handled_once(effects: Any, number: int) -> None:
    assert Counter(effects()) == Counter(f"test.effect {n}" for n in range(number))


@pytest.mark.databases("postgresql")
def test_a_database_that_is_killed_and_comes_back_loses_nothing(
    send: Any,
    relay: Start,
    consumer: Start,
    counts: Any,
    consumed: Any,
    effects: Any,
    pytestconfig: pytest.Config,
) -> None:
    server = pytestconfig.stash[database_key]
    commands = [relay(), consumer()]
    for n in range(50):
        send("test.effect", n, key=str(n % 7))
    wait_until(lambda: counts()["consumed"] > 10, 60)

    connections.close_all()
    server.kill()
    for command in commands:
        command.wait_for_line("The database: ")
    server.start()
    for n in range(50, 100):
        send("test.effect", n, key=str(n % 7))

    consumed(100, 120)
    assert_all_handled_once(effects, 100)
    assert not OutboxMessage.objects.exclude(retry_count=0).exists()
    assert all(command.returncode is None for command in commands)
