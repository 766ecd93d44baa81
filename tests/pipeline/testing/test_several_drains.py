"""What one drain leaves, the next one continues: no message is lost between them."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction

from django_outbox import Event, Retry, publish
from django_outbox.handlers.registry import Registry
from django_outbox.testing import deliver, drain
from tests.support.effects import effect_of_payload, effects, effects_of_payloads
from tests.support.outbox import make_message, row, statuses
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db

PUBLISHERS = ["relay", pytest.param("debezium", marks=pytest.mark.databases("postgresql"))]


def order(payload: Any = 1, **options: Any) -> None:
    with transaction.atomic():
        publish("order.created", payload, **options)


@pytest.mark.parametrize("publisher", PUBLISHERS)
def test_later_messages_of_the_key_of_a_failed_one_are_handled(publisher: str, handlers: Registry) -> None:
    is_broken = [True]

    def works_after_its_repair(event: Event) -> None:
        effect_of_payload(event)
        if event.payload == 1 and is_broken:
            raise Retry(delay=3600)

    handlers.register("order.created", works_after_its_repair)
    with outbox_settings(PUBLISHER=publisher):
        for number in (1, 2, 3):
            order(number, key="7")
        assert drain(max_wait=0).failed == 1
        is_broken.clear()
        result = drain()
    assert (effects(), result.failed, result.waiting) == (["1", "2", "3"], 0, ())


@pytest.mark.parametrize("publisher", PUBLISHERS)
def test_batches_that_are_not_full_are_handled(publisher: str, handlers: Registry) -> None:
    handlers.register("order.created", effects_of_payloads, batch=50, wait=3600)
    handlers.register("order.created", effects_of_payloads, batch=50, wait=7200, group="reports")
    with outbox_settings(PUBLISHER=publisher):
        order(1, key="7")
        assert drain(max_wait=0).consumed == 2
        order(2, key="7")
        assert drain().consumed == 2
    assert (effects(), statuses()) == (["1", "1", "2", "2"], ["consumed", "consumed"])


def test_a_foreign_event_of_a_batch_that_is_not_full_is_handled(handlers: Registry) -> None:
    handlers.register("invoice.paid", effects_of_payloads, batch=50, wait=3600)
    assert deliver("invoice.paid", 1, source="billing", max_wait=0).consumed == 1
    assert effects() == ["1"]


def test_what_was_left_by_one_that_ended_with_an_exception_is_handled(handlers: Registry) -> None:
    is_interrupted = [True]

    def is_stopped(event: Event) -> None:
        if is_interrupted:
            raise KeyboardInterrupt
        effect_of_payload(event)

    handlers.register("order.created", is_stopped)
    for number in (1, 2, 3):
        order(number)
    with pytest.raises(KeyboardInterrupt):
        drain()
    assert statuses() == ["published"] * 3
    is_interrupted.clear()
    assert drain().consumed == 3
    assert effects() == ["1", "2", "3"]


@pytest.mark.parametrize("place", [{}, {"partition": 0, "offset": 7}])
def test_what_a_relay_sent_before_is_handled_with_no_failure_counted(place: Any, handlers: Registry) -> None:
    handlers.register("order.created", effect_of_payload)
    message = make_message("published", **place)
    assert drain().consumed == 1
    assert (row(message).status, row(message).retry_count, len(effects())) == ("consumed", 0, 1)


def test_what_has_no_handler_or_no_reader_is_left_as_it_is(handlers: Registry) -> None:
    handlers.register("order.created", effect_of_payload)
    handlers.register("order.paid", effect_of_payload, topic="payments")
    make_message("published", event_type="order.shipped", partition=0, offset=7)
    make_message("published", event_type="order.paid", partition=0, offset=8)
    make_message("published", topic="elsewhere", partition=0, offset=9)
    make_message("published", source="other", partition=0, offset=10)
    assert drain(raise_errors=False).published == 0
    assert statuses() == ["published"] * 4
