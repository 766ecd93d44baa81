"""fail_once(): a handler that runs, is rolled back, and runs again."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction

from django_outbox import Event, publish
from django_outbox.handlers.registry import Registry
from django_outbox.testing import deliver, drain, fail_once
from tests.support.effects import effect_of_payload, effects, effects_of_payloads
from tests.support.outbox import statuses

pytestmark = pytest.mark.django_db


def order(payload: Any = 1, **options: Any) -> None:
    with transaction.atomic():
        publish("order.created", payload, **options)


def test_it_is_retried_after_its_changes_were_rolled_back(handlers: Registry) -> None:
    attempts: list[int] = []

    def ship(event: Event) -> None:
        effect_of_payload(event)
        attempts.append(event.attempt)

    handlers.register("order.created", ship)
    order()
    with fail_once(ship):
        result = drain()
    assert (result.failed, result.consumed) == (1, 1)
    assert (attempts, effects(), statuses()) == ([1, 2], ["1"], ["consumed"])


def test_one_message_fails_and_no_other(handlers: Registry) -> None:
    handlers.register("order.created", effect_of_payload)
    for number in range(5):
        order(number)
    with fail_once(effect_of_payload):
        result = drain()
    assert (result.failed, result.consumed) == (1, 5)
    assert sorted(effects()) == ["0", "1", "2", "3", "4"]


def test_the_error_may_be_chosen(handlers: Registry) -> None:
    handlers.register("order.created", effect_of_payload)
    order(max_retry=1)
    with fail_once(effect_of_payload, ConnectionError("no route")), pytest.raises(ConnectionError, match="no route"):
        drain()


def test_other_handlers_of_the_event_run_again_with_it(handlers: Registry) -> None:
    ran: list[Event] = []
    handlers.register("order.created", ran.append)
    handlers.register("order.created", effect_of_payload)
    order()
    with fail_once(effect_of_payload):
        drain()
    assert len(ran) == 2


def test_a_batch_handler_fails_for_one_event(handlers: Registry) -> None:
    handlers.register("order.created", effects_of_payloads, batch=10)
    order(1)
    order(2)
    with fail_once(effects_of_payloads):
        result = drain()
    assert (result.failed, sorted(effects())) == (1, ["1", "2"])


def test_a_handler_of_foreign_events_fails_once_as_well(handlers: Registry) -> None:
    handlers.register("invoice.paid", effect_of_payload)
    with fail_once(effect_of_payload):
        result = deliver("invoice.paid", 1, source="billing")
    assert (result.failed, result.consumed, effects()) == (1, 1, ["1"])


def test_it_fails_twice_if_a_test_says_so_twice(handlers: Registry) -> None:
    handlers.register("order.created", effect_of_payload)
    order()
    second = ConnectionError("no route")
    with fail_once(effect_of_payload), fail_once(effect_of_payload, second):
        result = drain()
    assert (result.failed, result.consumed, effects()) == (2, 1, ["1"])


def test_after_the_block_it_works_as_before(handlers: Registry) -> None:
    handlers.register("order.created", effect_of_payload)
    with pytest.raises(AssertionError, match="did not run in the block"), fail_once(effect_of_payload):
        pass
    order()
    assert drain().failed == 0


def test_a_function_that_is_not_a_handler_is_refused(handlers: Registry) -> None:
    with pytest.raises(ValueError, match="effect_of_payload is not a handler"), fail_once(effect_of_payload):
        pass


def test_an_error_in_the_block_is_not_replaced(handlers: Registry) -> None:
    handlers.register("order.created", effect_of_payload)
    with pytest.raises(ZeroDivisionError), fail_once(effect_of_payload):
        _ = 1 / 0
