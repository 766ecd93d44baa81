"""Publishing: a message is stored with the business data or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import IntegrityError, models, transaction

from django_outbox import Event, InvalidMessage, TransactionRequired, apublish, apublish_many, publish, publish_many
from django_outbox.models import OutboxMessage
from tests.pipeline.conftest import OTHER
from tests.support.app.models import Effect
from tests.support.outbox import Pipeline, make_message
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db


class ToOther:
    """A router that sends all writes to the second alias."""

    def db_for_write(self, model: type[models.Model], **hints: Any) -> str:
        return OTHER


@pytest.mark.django_db(transaction=True)
def test_message_is_rolled_back_with_the_business_data() -> None:
    with suppress(ZeroDivisionError), transaction.atomic():
        Effect.objects.create(name="business")
        publish("order.created", {"id": 1})
        publish_many([Event(type="order.created")])
        raise ZeroDivisionError
    assert not Effect.objects.exists()
    assert not OutboxMessage.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_message_is_committed_with_the_business_data() -> None:
    with transaction.atomic():
        Effect.objects.create(name="business")
        publish("order.created", {"id": 1})
    assert Effect.objects.count() == OutboxMessage.objects.count() == 1


def test_message_is_rolled_back_with_its_savepoint() -> None:
    publish("outer", 1)
    with suppress(ZeroDivisionError), transaction.atomic():
        publish("inner", 1)
        raise ZeroDivisionError
    assert [message.event_type for message in OutboxMessage.objects.all()] == ["outer"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("before", [0, 1, 1000])
def test_after_an_event_id_that_exists_a_transaction_can_only_be_rolled_back(before: int) -> None:
    existing = make_message()
    events = [*[Event(type="order.created")] * before, Event(type="order.created", id=str(existing.event_id))]
    with transaction.atomic():
        Effect.objects.create(name="business")
        with suppress(IntegrityError):
            publish_many(events)
    assert not Effect.objects.exists()
    assert OutboxMessage.objects.get() == existing


@pytest.mark.django_db(transaction=True)
def test_without_a_transaction_too_all_events_are_stored_or_none() -> None:
    existing = make_message()
    events = [*[Event(type="order.created")] * 1000, Event(type="order.created", id=str(existing.event_id))]
    with outbox_settings(REQUIRE_TRANSACTION=False), pytest.raises(IntegrityError):
        publish_many(events)
    assert OutboxMessage.objects.get() == existing


PUBLISHERS = {
    "publish": lambda **options: publish("order.created", {"id": 1}, **options),
    "publish_many": lambda **options: publish_many([Event(type="order.created")], **options),
    "publish_many of nothing": lambda **options: publish_many([], **options),
}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", PUBLISHERS)
def test_outside_of_a_transaction_nothing_is_written_and_the_way_out_is_told(name: str) -> None:
    with pytest.raises(TransactionRequired, match=r"`with transaction\.atomic\(\):` block\.$"):
        PUBLISHERS[name]()
    assert not OutboxMessage.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", PUBLISHERS)
def test_in_async_code_the_error_says_what_to_do_and_that_works(name: str) -> None:
    def place_order() -> None:
        with transaction.atomic():
            PUBLISHERS[name]()

    async def view(*, follows_the_advice: bool) -> None:
        if follows_the_advice:
            await sync_to_async(place_order)()
        else:
            PUBLISHERS[name]()

    with pytest.raises(TransactionRequired, match=r"await sync_to_async\(function\)\(\)") as error:
        asyncio.run(view(follows_the_advice=False))
    assert "`with transaction.atomic():`" in str(error.value)
    assert not OutboxMessage.objects.exists()
    async_to_sync(view)(follows_the_advice=True)
    assert OutboxMessage.objects.exists() is (name != "publish_many of nothing")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("fails", [False, True])
def test_async_handler_publishes_in_its_own_transaction(fails: bool) -> None:
    async def handle(event: Event) -> None:
        await apublish("order.confirmed", event.payload, key="7")
        await apublish_many([Event(type="order.confirmed")])
        if fails:
            raise ZeroDivisionError

    pipeline = Pipeline()
    pipeline.on("order.created", handle)
    make_message()
    pipeline.turn()
    assert OutboxMessage.objects.filter(event_type="order.confirmed").count() == (0 if fails else 2)


def awaited(name: str) -> Coroutine[Any, Any, Any]:
    """A call of one of the two."""
    return apublish("order.created", 1) if name == "apublish" else apublish_many([Event(type="order.created")])


async def await_it(name: str) -> None:
    await awaited(name)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", ["apublish", "apublish_many"])
def test_async_code_of_a_transaction_publishes_in_it(name: str) -> None:
    with transaction.atomic():
        async_to_sync(await_it)(name)
        transaction.set_rollback(True)
    assert not OutboxMessage.objects.exists()
    with transaction.atomic():
        async_to_sync(await_it)(name)
    assert OutboxMessage.objects.count() == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", ["apublish", "apublish_many"])
def test_async_code_without_a_transaction_is_told_what_to_do(name: str) -> None:
    with pytest.raises(
        TransactionRequired, match=rf"{name}\(\) was awaited outside .* with `await sync_to_async\(function\)"
    ):
        async_to_sync(await_it)(name)
    assert not OutboxMessage.objects.exists()
    with outbox_settings(REQUIRE_TRANSACTION=False):
        async_to_sync(await_it)(name)
    assert OutboxMessage.objects.count() == 1


def test_an_argument_that_is_not_valid_is_named_there_too() -> None:
    with pytest.raises(InvalidMessage, match="event_type"):
        async_to_sync(apublish)("", 1)


@pytest.mark.django_db(transaction=True)
def test_where_django_allows_transactions_in_async_code_the_advice_is_atomic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # as in a notebook

    async def cell() -> None:
        publish("order.created", {"id": 1})

    with pytest.raises(TransactionRequired, match=r"`with transaction\.atomic\(\):` block\.$"):
        asyncio.run(cell())


@pytest.mark.django_db(transaction=True)
def test_transaction_is_not_required_if_the_settings_say_so() -> None:
    with outbox_settings(REQUIRE_TRANSACTION=False):
        message = publish("order.created", {"id": 1})
        (other,) = publish_many([Event(type="order.created")])
    assert set(OutboxMessage.objects.all()) == {message, other}


@pytest.mark.parametrize("name", PUBLISHERS)
def test_transaction_has_to_be_on_the_outbox_s_own_database(other: str, name: str) -> None:
    with transaction.atomic(), pytest.raises(TransactionRequired, match=r"block on the database 'other'\.$"):
        PUBLISHERS[name](using=other)
    with transaction.atomic(using=other), pytest.raises(TransactionRequired):
        PUBLISHERS[name]()


def test_message_goes_to_the_database_that_is_named(other: str) -> None:
    with transaction.atomic(using=other):
        messages = [publish("order.created", 1, using=other), *publish_many([Event(type="x")], using=other)]
    assert [message._state.db for message in messages] == [other, other]
    assert OutboxMessage.objects.using(other).count() == 2


def test_router_chooses_the_database(other: str, settings: Any) -> None:
    settings.DATABASE_ROUTERS = [ToOther()]
    with transaction.atomic(), pytest.raises(TransactionRequired, match="'other'"):
        publish("order.created", 1)
    with transaction.atomic(using=other):
        assert publish("order.created", 1)._state.db == other
        assert publish_many([Event(type="order.created")])[0]._state.db == other
