"""Messages of one key that are handled in one transaction keep their order, as those of several do."""

from __future__ import annotations

import pytest

from tests.support.outbox import Pipeline, Status, make_message, statuses
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db


def test_records_that_hide_their_key_are_handled_in_the_order_of_their_messages() -> None:
    pipeline = Pipeline(steady=True)
    pipeline.on("order.created")
    first, second = (
        make_message(Status.PUBLISHED, message_key="a", payload=number, partition=0, offset=2 - number)
        for number in (1, 2)
    )
    pipeline.deliver(second, publish_count=0, message_key="")
    pipeline.deliver(first, publish_count=0, message_key="")

    pipeline.consumer.run_once()

    assert (statuses(), [event.payload for event in pipeline.handled]) == (["consumed", "pending"], [1])
    pipeline.run()
    assert [event.payload for event in pipeline.handled] == [1, 2]


@pytest.mark.parametrize(("on_dead", "expected"), [("continue", "consumed"), ("hold", "pending")])
def test_a_message_that_is_dead_without_a_handler_holds_the_next_one_if_the_dead_do(
    on_dead: str, expected: str
) -> None:
    pipeline = Pipeline(steady=True)
    pipeline.on("order.created")
    make_message(message_key="a", event_type="of.nobody")
    make_message(message_key="a")

    with outbox_settings(UNKNOWN_EVENT="dead", ON_DEAD=on_dead):
        pipeline.turn()

    assert statuses() == ["dead", expected]
