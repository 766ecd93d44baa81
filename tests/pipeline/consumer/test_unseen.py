"""Records that Debezium delivers before other sessions see their rows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from django_outbox.consumer.waits import HOLD_SECONDS
from django_outbox.events.event import Event
from django_outbox.models import OutboxMessage
from django_outbox.models.fields import DatabaseNow
from tests.support.carried import committed, consume, deliver, inserted, sent
from tests.support.clock import Clock
from tests.support.effects import effect_of_payload, effects
from tests.support.outbox import Pipeline, make_message

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def debezium(settings: Any) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "PUBLISHER": "debezium"}


@pytest.fixture(params=[False, True], ids=["counted", "steady"])
def pipeline(request: pytest.FixtureRequest, clock: Clock) -> Pipeline:
    pipeline = Pipeline(steady=request.param, hold=50, clock=clock)
    pipeline.on("order.created", effect_of_payload)
    return pipeline


class Uncommitted:
    """A message whose record is delivered before its row is visible."""

    def __init__(self, pipeline: Pipeline, payload: Any, **fields: Any) -> None:
        self.message = inserted(payload, **fields)
        deliver(pipeline, self.message)
        OutboxMessage.objects.filter(id=self.message.id).delete()

    def commit(self) -> None:
        self.message.save(force_insert=True)


def test_a_record_whose_row_is_not_visible_yet_waits_for_it(pipeline: Pipeline, clock: Clock) -> None:
    uncommitted = Uncommitted(pipeline, 1)
    consume(pipeline, clock)
    assert committed(pipeline) == 0
    uncommitted.commit()
    consume(pipeline, clock)
    assert effects() == ["1"]
    assert committed(pipeline) == 1


@pytest.mark.parametrize("publisher", ["debezium", "relay"])
def test_later_messages_of_its_key_wait_as_well_in_the_order_of_their_commits(
    settings: Any, pipeline: Pipeline, clock: Clock, publisher: str
) -> None:
    """Also in a consumer that was not restarted since the switch, or after the switch back."""
    settings.OUTBOX = {**settings.OUTBOX, "PUBLISHER": publisher}
    last, middle = inserted("last"), inserted("middle")
    uncommitted = Uncommitted(pipeline, "first")
    deliver(pipeline, middle)
    consume(pipeline, clock)
    deliver(pipeline, inserted("other", message_key="b"), last)
    consume(pipeline, clock)
    assert effects() == ["other"]
    uncommitted.commit()
    consume(pipeline, clock)
    assert effects() == ["other", "first", "middle", "last"]
    assert sent() == [1, 1, 1, 1]


def test_one_of_its_key_waits_too_when_messages_are_handled_one_by_one(pipeline: Pipeline, clock: Clock) -> None:
    def handle(events: list[Event]) -> None:
        if len(events) > 1:
            raise ArithmeticError

    pipeline.on("order.paid", handle, batch=10)
    pipeline.consumer.lanes.engines[0].transaction_size = 100
    uncommitted = Uncommitted(pipeline, "first")
    for event_type, payload, key in [("order.paid", 1, "b"), ("order.created", "next", "a"), ("order.paid", 2, "c")]:
        deliver(pipeline, inserted(payload, event_type=event_type, message_key=key))
    consume(pipeline, clock)
    assert effects() == []
    uncommitted.commit()
    consume(pipeline, clock)
    assert effects() == ["first", "next"]


def test_messages_without_a_key_do_not_wait_for_a_row(pipeline: Pipeline, clock: Clock) -> None:
    Uncommitted(pipeline, 1, message_key="")
    make_message(payload=2)
    pipeline.relay.run_once()
    consume(pipeline, clock)
    assert effects() == ["2"]


def test_a_record_whose_row_never_appears_is_skipped_after_a_minute(
    pipeline: Pipeline, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    uncommitted = Uncommitted(pipeline, 1)
    for _ in range(30):
        clock.now += HOLD_SECONDS / 20
        pipeline.consumer.run_once()
    assert committed(pipeline) == 1
    assert f"there is no outbox message {uncommitted.message.id}" in caplog.text


OLD = timedelta(hours=2)


@pytest.mark.parametrize(
    ("changes", "outbox"),
    [
        ({"created_at": DatabaseNow() - OLD}, {}),
        ({"created_at": DatabaseNow() - OLD / 4}, {"RETENTION": {"consumed": OLD / 8}}),
    ],
    ids=["old", "old enough to be purged"],
)
def test_a_record_whose_row_was_deleted_is_skipped_at_once(
    settings: Any, pipeline: Pipeline, changes: dict[str, Any], outbox: dict[str, Any]
) -> None:
    settings.OUTBOX = {**settings.OUTBOX, **outbox}
    Uncommitted(pipeline, 1, **changes)
    pipeline.consumer.run_once()
    assert committed(pipeline) == 1


def test_a_later_publication_is_never_taken_for_one_that_is_not_visible_yet(pipeline: Pipeline) -> None:
    message = inserted(1)
    pipeline.deliver(message)
    message.delete()
    pipeline.consumer.run_once()
    assert committed(pipeline) == 1
