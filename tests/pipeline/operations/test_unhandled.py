"""Which published messages a handler here waits for: the same for a query and for a row at hand."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import product
from typing import Any

import pytest

from django_outbox.handlers.registry import Registry
from django_outbox.models import OutboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.state import unhandled as module
from django_outbox.state.unhandled import HandledEvents, longest_unhandled, longest_unhandled_by_topic
from tests.support.outbox import Pipeline, Status, make_message
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db

TYPES = ("order.created", "order.paid")
TOPICS = ("orders", "copies")
HANDLERS: dict[str, list[tuple[str, str | None]]] = {
    "none": [],
    "any topic": [("order.created", None)],
    "one topic": [("order.created", "orders")],
    "the copies": [("order.created", "copies")],
    "some": [("order.created", "copies"), ("order.paid", None), ("order.paid", "orders")],
}


@pytest.fixture(params=["ignore", "dead"])
def unknown_event(request: pytest.FixtureRequest) -> Iterator[str]:
    with outbox_settings(DEAD_LETTER_TOPIC="copies", UNKNOWN_EVENT=request.param):
        yield request.param


def handled_by(*kinds: tuple[str, str | None]) -> HandledEvents:
    handlers = Registry()
    for event_type, topic in kinds:
        handlers.register(event_type, lambda event: None, topic=topic)
    return HandledEvents.by(handlers.for_group("main"))


@pytest.mark.parametrize("kinds", HANDLERS.values(), ids=HANDLERS.keys())
def test_a_query_finds_what_is_said_of_each_message(kinds: list[tuple[str, str | None]], unknown_event: str) -> None:
    for event_type, topic in product(TYPES, TOPICS):
        make_message(Status.PUBLISHED, event_type=event_type, topic=topic)
    handled = handled_by(*kinds)

    messages = OutboxMessage.objects.values_list("event_type", "topic")
    found = [] if handled.condition is None else list(messages.filter(handled.condition))

    assert sorted(found) == sorted(pair for pair in product(TYPES, TOPICS) if handled.includes(*pair))
    by_kind = {pair for kind in handled.kinds for pair in messages.filter(handled.condition_of(kind))}
    assert by_kind == set(found) if unknown_event == "ignore" else by_kind <= set(found)


def test_a_message_is_awaited_by_a_handler_of_its_type_and_topic() -> None:
    handled = handled_by(("order.created", None), ("order.paid", "orders"))
    assert handled.includes("order.created", "wherever")
    assert handled.includes("order.paid", "orders")
    assert not handled.includes("order.paid", "elsewhere")
    assert not handled.includes("for.others", "orders")
    assert handled_by().condition is None


@pytest.mark.usefixtures("unknown_event")
def test_a_copy_of_a_dead_letter_is_awaited_only_by_a_handler_that_names_its_topic() -> None:
    assert not handled_by(("order.created", None)).includes("order.created", "copies")
    assert handled_by(("order.created", "copies")).includes("order.created", "copies")


@pytest.mark.usefixtures("unknown_event")
def test_copies_are_awaited_as_all_else_where_a_handler_names_their_topic() -> None:
    """As the consumer reads it then, and gives what it reads to all handlers of its type."""
    pipeline = Pipeline()
    pipeline.handlers.register("order.paid", pipeline.handled.append, topic="copies")
    pipeline.on("order.created")
    message = make_message(event_type="order.created", topic="copies")
    assert HandledEvents.by(pipeline.handlers.for_group("tests")).includes("order.created", "copies")

    pipeline.run()

    assert [event.id for event in pipeline.handled] == [str(message.event_id)]


def test_everything_is_awaited_where_the_consumer_has_yet_to_call_it_dead() -> None:
    with outbox_settings(UNKNOWN_EVENT="dead"):
        assert handled_by().includes("for.others", "orders")


def sent_ago(minutes: int, **fields: Any) -> None:
    sent = DatabaseNow() - timedelta(minutes=minutes)
    make_message(
        Status.PUBLISHED, event_type="test.effect", published_at=sent, **fields
    )  # a handler of tests.support.app


@pytest.mark.parametrize("unknown_event", ["ignore", "dead"])
def test_what_is_sent_again_does_not_hide_what_waits_for_longer(unknown_event: str) -> None:
    sent_ago(0, partition=0, offset=9)
    sent_ago(30, partition=0, offset=3)
    with outbox_settings(UNKNOWN_EVENT=unknown_event):
        assert longest_unhandled("default") == pytest.approx(1800, abs=60)


@pytest.mark.parametrize("partition", [0, 1, 7, None])
@pytest.mark.parametrize("topic", ["a", "outbox", "z"])
def test_a_partition_with_much_in_it_does_not_hide_what_waits_in_another(
    monkeypatch: pytest.MonkeyPatch, topic: str, partition: int
) -> None:
    """As where one of several consumers hangs, and the others have more in hand than is looked at."""
    monkeypatch.setattr(module, "SAMPLE_SIZE", 3)
    sent_ago(30, topic=topic, partition=partition, offset=None if partition is None else 0)
    for number in range(1, 6):
        for other in (0, 1):
            sent_ago(1, topic="outbox", partition=other, offset=number)
    assert longest_unhandled("default") == pytest.approx(1800, abs=60)


def test_where_more_waits_than_is_looked_at_its_age_is_known_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_SIZE", 3)
    for number in range(5):
        sent_ago(9 - number, partition=0, offset=number)
    assert longest_unhandled("default") == pytest.approx(540, abs=60)


@pytest.mark.parametrize("unknown_event", ["ignore", "dead"])
@pytest.mark.parametrize("looked_at", [3, 10_000])
def test_waits_by_topic_are_those_of_the_longest_awaited_of_each(
    monkeypatch: pytest.MonkeyPatch, unknown_event: str, looked_at: int
) -> None:
    monkeypatch.setattr(module, "SAMPLE_SIZE", looked_at)
    sent_ago(40, topic="z", partition=0, offset=0)
    sent_ago(30, topic="a", partition=0, offset=0)
    for number in range(1, 6):
        sent_ago(1, topic="a", partition=0, offset=number)
    with outbox_settings(UNKNOWN_EVENT=unknown_event):
        found = longest_unhandled_by_topic("default")
        assert found.keys() == {"a", "z"}
        assert 1800 <= found["a"] < 2400 <= found["z"]


def test_what_is_published_by_a_clock_ahead_waits_for_no_time() -> None:
    sent_ago(-5, topic="a", partition=0, offset=0)
    assert (longest_unhandled("default"), longest_unhandled_by_topic("default")) == (0.0, {"a": 0.0})
