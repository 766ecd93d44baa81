"""What is written for pauses: the breaker moves its own, and messages wait for the next check."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from django_outbox.models import OutboxMessage, Pause
from django_outbox.state import pauses
from tests.support.changes import changes, stored
from tests.support.outbox import make_message

pytestmark = pytest.mark.django_db

OVERDUE = datetime(2021, 1, 1, tzinfo=UTC)


def test_the_breaker_moves_the_end_of_its_own_pause_only() -> None:
    known: dict[str, Any] = {"reason": "away", "created_by": pauses.BREAKER, "until": OVERDUE}
    Pause.objects.create(group="tests", handler="shop.bill", **known)
    Pause.objects.create(group="another", handler="shop.ship", **known)
    Pause.objects.create(group="tests", event_type="order.created", **known)
    pause = Pause.objects.create(group="tests", handler="shop.ship", **known)
    before = stored(Pause)
    assert not pauses.trip("tests", "shop.ship", timedelta(minutes=1), "still away", using="default")
    after = stored(Pause)
    assert {id for id in before if before[id] != after[id]} == {pause.id}
    assert (after[pause.id]["reason"], after[pause.id]["until"] > OVERDUE) == ("still away", True)


def test_what_waits_for_a_check_time_of_a_pause_waits_for_the_next_one() -> None:
    Pause.objects.create(group="tests", event_type="order.created", reason="no", created_by="kim")
    (pause,) = pauses.active(Pause.objects.using("default"))
    following, later = pause.check_times(pause.now)
    message = make_message(next_retry_at=following)
    make_message(next_retry_at=following - timedelta(seconds=1))
    changed = changes(OutboxMessage, lambda: pauses.postpone(pause, pause.now, using="default"))
    assert changed == {message.id: {"next_retry_at", "updated_at"}}
    message.refresh_from_db()
    assert message.next_retry_at == later
