"""A writer that comes late changes nothing: the message has left the state that the writer knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection
from django.db.models import QuerySet

from django_outbox.models import OutboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.state import outbox as state
from django_outbox.state.retry import retry
from django_outbox.state.transitions import mark_dead, mark_failed, requeue
from tests.support.outbox import Status, make_message, row

pytestmark = pytest.mark.django_db


@contextmanager
def before_the_next_update(change: Callable[[], object]) -> Iterator[None]:
    """Let another session change something at the last moment."""
    changes = [change]

    def execute(execute: Callable[..., Any], sql: str, *arguments: Any) -> Any:
        if changes and sql.startswith("UPDATE"):
            changes.pop()()
        return execute(sql, *arguments)

    with connection.execute_wrapper(execute):
        yield


@pytest.mark.parametrize("write", [mark_failed, mark_dead, requeue])
@pytest.mark.parametrize(("status", "rows"), [(Status.PENDING, state.to_send), (Status.PUBLISHED, state.in_delivery)])
def test_the_result_of_another_publication_is_not_stored(
    status: str, rows: Callable[..., QuerySet[OutboxMessage]], write: Callable[..., Any]
) -> None:
    message = make_message(status, publish_count=2)

    for attempt in (1, 4):
        assert not write(rows(message.id, attempt, using="default"), DatabaseNow() if write is requeue else "boom")

    now = row(message)
    assert (now.status, now.retry_count, now.last_error) == (status, 0, "")


def test_a_message_that_another_operator_has_retried_and_that_is_consumed_since_is_not_retried() -> None:
    message = make_message(Status.DEAD)

    def consume() -> None:
        OutboxMessage.objects.filter(id=message.id).update(status=Status.CONSUMED, consumed_at=DatabaseNow())

    with before_the_next_update(consume):
        assert retry(OutboxMessage.objects.all(), using="default") == 0

    assert row(message).status == Status.CONSUMED
