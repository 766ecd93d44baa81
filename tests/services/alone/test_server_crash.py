"""A message crashes the database server: others are handled, and no retry is counted."""

from __future__ import annotations

import os
import signal

import pytest
from django.db import connection

from django_outbox.events.event import Event
from django_outbox.worker.transactions import MAX_ATTEMPTS
from tests.support.app.models import Effect
from tests.support.outages import run_through_outages
from tests.support.outbox import Pipeline, Status, make_message, row

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("steady", [False, True], ids=["one by one", "together"])
def test_a_message_that_takes_the_server_down_is_put_aside(steady: bool) -> None:
    """As the kernel does with a server process that takes too much memory: PostgreSQL restarts all of them."""

    def takes_it_down(event: Event) -> None:
        os.kill(connection.connection.info.backend_pid, signal.SIGKILL)
        Effect.objects.count()

    pipeline = Pipeline(steady=steady)
    pipeline.on("falls", takes_it_down)
    pipeline.on("order.created")
    suspect, neighbour = make_message(event_type="falls"), make_message()
    pipeline.relay.run_once()

    run_through_outages(pipeline, MAX_ATTEMPTS + 4)

    assert row(neighbour).status == Status.CONSUMED
    assert (row(suspect).status, row(suspect).retry_count) == (Status.PENDING, 0)
