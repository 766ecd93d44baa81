"""Handlers: each runs once for the events that it wants, in order, async or not, and is found by itself."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from django.db import transaction

from django_outbox import Event, publish
from django_outbox.handlers.handler import Handler
from tests.support.app.models import Effect
from tests.support.outbox import Pipeline, statuses

EVENT = Event(type="order.created", payload={"id": 1}, id="17")


# What they are called with


@dataclass
class Order:
    id: int
    name: str = "tent"


@pytest.mark.django_db(transaction=True)
def test_payload_that_does_not_fit_counts_as_a_failure_and_the_row_says_why() -> None:
    from django_outbox.models import OutboxMessage

    def takes(order: Order) -> None: ...

    pipeline = Pipeline()
    pipeline.on("order.created", takes)
    with transaction.atomic():
        publish("order.created", {"name": "s3cr3t"})
    batch = pipeline.turn()
    message = OutboxMessage.objects.get()
    assert (batch.failed, message.status, message.retry_count) == (1, "pending", 1)
    error, _, handler = message.last_error.partition("\n\nHandler: ")
    assert error == "django_outbox.exceptions.PayloadMismatch: The payload is not a valid Order: id: Field required"
    assert handler.endswith(".takes")


# Async


@pytest.mark.django_db(transaction=True)
def test_async_handler_works_in_the_transaction_around_it() -> None:
    async def write(event: Event) -> None:
        await Effect.objects.acreate(name="async", event_id=event.id)
        assert await Effect.objects.filter(event_id=event.id).acount() == 1

    with transaction.atomic():
        Handler("order.created", write, None, None)(EVENT)
        assert Effect.objects.count() == 1
        transaction.set_rollback(True)
    assert not Effect.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_effects_of_an_async_handler_are_committed_with_its_message_or_not_at_all() -> None:
    async def write(event: Event) -> None:
        await Effect.objects.acreate(name="async", event_id=event.id)
        if event.payload == "bad":
            raise ArithmeticError

    pipeline = Pipeline()
    pipeline.on("order.created", write)
    with transaction.atomic():
        good = publish("order.created", "good")
        publish("order.created", "bad")
    pipeline.turn()
    assert statuses() == ["consumed", "pending"]
    assert [effect.event_id for effect in Effect.objects.all()] == [str(good.event_id)]
