"""What is written for pauses: the breaker moves its own, messages wait for the next check, and no operator waits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from django_outbox.exceptions import PauseLocked
from django_outbox.models import InboxMessage, OutboxMessage, Pause
from django_outbox.models.fields import DatabaseNow
from django_outbox.state import pauses
from django_outbox.state.pauses import ActivePause
from tests.support.changes import changes, stored
from tests.support.inbox import make_received
from tests.support.locked import locked_by_another
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


def pause_orders(group: str = "tests", reason: str = "a bug") -> ActivePause:
    """Pause them as an operator does."""
    pauses.pause(group, event_type="order.*", reason=reason, by="ada", using="default")
    return pauses.active(Pause.objects.using("default"))[0]


def is_due(message: OutboxMessage) -> bool:
    return OutboxMessage.objects.due().filter(id=message.id).exists()


def test_what_waits_for_the_end_of_a_pause_is_due_then() -> None:
    pause = pause_orders()
    message = make_message(next_retry_at=pause.due_at(pause.now))
    make_message(next_retry_at=pause.now + timedelta(days=1))
    changed = changes(OutboxMessage, lambda: pauses.resume(Pause.objects.all(), using="default"))
    assert changed == {message.id: {"next_retry_at", "updated_at"}}
    assert is_due(message)


def test_the_pause_of_another_group_has_messages_in_its_inbox_only() -> None:
    pause = pause_orders("books")
    due_at = pause.due_at(pause.now)
    message = make_message(next_retry_at=due_at)
    make_received(group="tests", next_retry_at=due_at)
    received = make_received(group="books", next_retry_at=due_at)
    found = pauses.waiting(pause, pause.now, using="default")
    assert [list(found[box].values_list("id", flat=True)) for box in ("outbox", "inbox")] == [[], [received.id]]
    assert pauses.resume(Pause.objects.all(), using="default") == (1, 1)
    assert not is_due(message)
    assert InboxMessage.objects.due().get() == received


def test_another_reason_lets_messages_wait_for_the_same_check_time() -> None:
    pause = pause_orders()
    make_message(next_retry_at=pause.due_at(pause.now))
    assert changes(OutboxMessage, lambda: pause_orders(reason="still a bug")) == {}


def test_messages_that_wait_for_the_end_of_the_breakers_pause_are_due_if_an_operator_takes_it_over() -> None:
    until = DatabaseNow() + timedelta(hours=1)
    pause = Pause.objects.create(group="tests", event_type="order.*", until=until)
    pause.refresh_from_db()
    message = make_message(next_retry_at=pause.until)
    pause_orders()
    assert is_due(message)


def test_an_operator_does_not_wait_for_a_consumer_that_uses_the_pause() -> None:
    pause = pause_orders()
    message = make_message(next_retry_at=pause.due_at(pause.now))
    before = stored(Pause)
    with locked_by_another():
        with pytest.raises(PauseLocked, match=r"^A consumer is using this pause, .* Try again in a moment\.$"):
            pause_orders(reason="still a bug")
        with pytest.raises(PauseLocked, match="Try again"):
            pauses.resume(Pause.objects.all(), using="default")
    assert stored(Pause) == before
    assert not is_due(message)


def test_a_consumer_waits_for_a_pause_that_it_ends_and_for_none_that_it_tries() -> None:
    pauses.trip("tests", "shop.ship", timedelta(0), "failed", using="default")
    tried = pauses.active(Pause.objects.using("default"))
    with locked_by_another():
        assert pauses.try_one(tried, timedelta(minutes=1), using="default") is None
        assert pauses.resume(Pause.objects.all(), using="default", wait=True) == (1, 0)
    assert not Pause.objects.exists()
