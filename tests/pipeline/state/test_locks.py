"""Rows that another session has in hand are passed over, not waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from django_outbox.models import OutboxMessage
from django_outbox.state import inbox, outbox
from django_outbox.state.ordering import Blocker
from django_outbox.state.outbox import Delivery
from tests.support.inbox import make_received
from tests.support.outbox import make_sent

pytestmark = pytest.mark.django_db

OVERDUE = datetime(2021, 1, 1, tzinfo=UTC)
LATER = timezone.now() + timedelta(days=1)


@pytest.fixture
def locks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """How each locking statement locks. SQLite, which locks no rows, gets it without that."""
    found: list[str] = []

    def execute(execute: Callable[..., Any], sql: str, *arguments: Any) -> Any:
        statement, clause, options = sql.partition(" FOR UPDATE")
        if clause:
            found.append(clause.strip() + options)
        return execute(statement if connection.vendor == "sqlite" else sql, *arguments)

    for feature in ("has_select_for_update", "has_select_for_update_skip_locked"):
        monkeypatch.setattr(connection.features, feature, True)
    with connection.execute_wrapper(execute):
        yield found


def lock_due() -> None:
    row = make_received(next_retry_at=OVERDUE)
    assert inbox.lock_due(row.id, using="default") == row


def postpone() -> None:
    blocker, row = (make_received(message_key="k", next_retry_at=due) for due in (LATER, OVERDUE))
    assert inbox.postpone(row, Blocker(blocker.id, LATER), using="default") == 1


def postpone_type() -> None:
    inbox.postpone_type(make_received(next_retry_at=OVERDUE), LATER, using="default")


def uncount_deliveries() -> None:
    message = make_sent(delivery_count=1)
    outbox.uncount_deliveries([Delivery(message.id, 3, "outbox", 2, 7)], using="default")
    assert OutboxMessage.objects.get().delivery_count == 0


def with_deliveries() -> None:
    message = make_sent(delivery_count=1)
    assert outbox.with_deliveries([message.id], using="default") == {message.id}


def requeue_all() -> None:
    make_sent()
    assert outbox.requeue_all(OutboxMessage.objects.using("default").published(), "default") == 1


@pytest.mark.parametrize(
    "work",
    [lock_due, postpone, postpone_type, uncount_deliveries, with_deliveries, requeue_all],
    ids=lambda f: f.__name__,
)
def test_rows_in_hand_elsewhere_are_passed_over(locks: list[str], work: Callable[[], None]) -> None:
    work()
    assert locks == ["FOR UPDATE SKIP LOCKED"]
