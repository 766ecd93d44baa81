"""Batch handlers in the inbox: fresh records come as lists, and retries one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from django_outbox.events.event import Event
from django_outbox.exceptions import Reject, Retry
from django_outbox.models import InboxMessage
from tests.support.effects import effects, effects_of_payloads
from tests.support.inbox import Receiver, plain, received, statuses

pytestmark = pytest.mark.django_db(transaction=True)


class Batches(Receiver):
    """A receiver whose handler takes lists; ``handle`` is what each test wants done with them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[Any]] = []
        self.handle: Callable[[list[Event]], Any] = lambda events: None
        self.on("order.created", self._batch, batch=10)

    def _batch(self, events: list[Event]) -> None:
        self.calls.append([event.payload for event in events])
        effects_of_payloads(events)
        self.handle(events)

    def raise_on(self, *payloads: Any, error: Callable[[list[Event]], Exception]) -> None:
        def handle(events: list[Event]) -> None:
            if bad := [event for event in events if event.payload in payloads]:
                raise error(bad)

        self.handle = handle


@pytest.fixture
def batches() -> Batches:
    return Batches()


def test_fresh_records_are_one_call_in_one_transaction(batches: Batches) -> None:
    records = [received(number) for number in range(10)]
    with CaptureQueriesContext(connection) as queries:
        assert batches.receive(*records) == ["consumed"] * 10
    assert batches.calls == [[*range(10)]]
    assert sum(query["sql"].startswith("BEGIN") for query in queries) == 1


def test_the_first_batch_after_a_start_is_full(batches: Batches) -> None:
    batches.transaction_size = 2.0
    batches.receive(*[received(number) for number in range(10)])
    assert batches.calls == [[*range(10)]]


def test_duplicates_are_not_in_the_list(batches: Batches) -> None:
    batches.receive(received(1, id="a"))
    assert batches.receive(received(1, id="a"), received(2, id="b"), received(2, id="b")) == [
        "skipped",
        "consumed",
        "skipped",
    ]
    assert batches.calls == [[1], [2]]


def test_after_an_error_each_is_tried_alone(batches: Batches) -> None:
    batches.raise_on(1, error=lambda bad: ArithmeticError("boom"))
    assert batches.receive(*[received(number) for number in range(3)]) == ["consumed", "failed", "consumed"]
    assert batches.calls == [[0, 1, 2], [0], [1], [2]]
    assert effects() == ["0", "2"]


def test_named_ones_fail_and_the_others_are_handled_again_together(batches: Batches) -> None:
    batches.raise_on(1, 3, error=lambda bad: Reject("never", events=bad))
    outcomes = batches.receive(*[received(number) for number in range(5)])
    assert outcomes == ["consumed", "dead", "consumed", "dead", "consumed"]
    assert batches.calls == [[0, 1, 2, 3, 4], [0, 2, 4]]
    assert sorted(statuses()) == ["consumed"] * 3 + ["dead"] * 2
    dead = InboxMessage.objects.filter(status="dead")
    assert {(each.last_error, each.payload) for each in dead} == {("never", 1), ("never", 3)}


def test_a_named_one_holds_what_is_behind_it_in_its_key_and_nothing_before_it(batches: Batches) -> None:
    batches.raise_on("bad", error=lambda bad: Retry(events=bad))
    records = [received(payload, key="k") for payload in ("before", "bad", "after")]
    assert batches.receive(*records, received("other", key="o")) == ["consumed", "failed", "requeued", "consumed"]
    assert effects() == ["before", "other"]

    batches.handle = lambda events: None
    batches.retry()
    batches.retry()
    assert effects() == ["before", "other", "bad", "after"]
    assert batches.calls[-2:] == [["bad"], ["after"]]
    assert statuses() == ["consumed"] * 4


def test_a_counted_delivery_is_a_list_of_one(batches: Batches) -> None:
    assert batches.receive(received(1), received(2), counted=True) == ["consumed", "consumed"]
    assert batches.calls == [[1], [2]]


def test_a_format_that_does_not_show_its_type_comes_in_batches_too(batches: Batches) -> None:
    batches.transaction_size = 4.0
    records = [
        plain(
            b'{"specversion": "1.0", "id": "%d", "source": "w", "type": "order.created", "data": %d}'
            % (number, number),
            headers=[("content-type", b"application/cloudevents+json")],
        )
        for number in range(10)
    ]
    assert batches.receive(*records) == ["consumed"] * 10
    assert batches.calls == [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9]]
