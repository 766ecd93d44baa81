"""Handlers read what has been committed, also where a router reads from a replica that lags behind."""

from __future__ import annotations

import io
from typing import Any

import pytest
from django.core.management import call_command
from django.db import router, transaction
from django.test import Client

from django_outbox import Event, publish, publish_many
from django_outbox.models import InboxMessage, OutboxMessage
from tests.support.app.models import Effect
from tests.support.inbox import Receiver, received
from tests.support.outbox import Pipeline, make_message
from tests.support.pages import act, make_failure, page_of, url

pytestmark = pytest.mark.django_db(transaction=True)


class ReplicaRouter:
    """Reads some apps from a replica, which here lags so far behind that it is not even there."""

    def __init__(self, *apps: str) -> None:
        self.apps = apps

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return "replica" if model._meta.app_label in self.apps else None

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "elsewhere" if model._meta.app_label == "contenttypes" else "default"


def use_replica(settings: Any) -> None:
    settings.DATABASE_ROUTERS = [ReplicaRouter("tests_app", "django_outbox", "contenttypes")]


def statuses(model: Any = OutboxMessage) -> set[str]:
    return set(model.objects.using("default").values_list("status", flat=True))


def read(event: Event) -> None:
    Effect.objects.get(event_id=event.id)


async def read_async(event: Event) -> None:
    await Effect.objects.aget(event_id=event.id)


@pytest.mark.parametrize("handler", [read, read_async])
@pytest.mark.parametrize("steady", [False, True], ids=["one by one", "together"])
def test_a_handler_reads_the_row_that_was_written_with_its_event(handler: Any, steady: bool, settings: Any) -> None:
    pipeline = Pipeline(steady=steady)
    pipeline.on("order.created", handler)
    for _ in range(3):
        Effect.objects.create(event_id=make_message().event_id)
    use_replica(settings)
    pipeline.turn()
    assert statuses() == {"consumed"}


def test_a_handler_of_the_inbox_reads_there_as_well(settings: Any) -> None:
    receiver = Receiver()
    receiver.on("order.created", read)
    Effect.objects.create(event_id="7")
    use_replica(settings)
    assert receiver.receive(received(id="7")) == ["consumed"]
    assert statuses(InboxMessage) == {"consumed"}


def test_only_handlers_do_and_only_of_models_that_are_written_there(settings: Any) -> None:
    from django.contrib.contenttypes.models import ContentType

    seen: list[str] = []

    def look(event: Event) -> None:
        seen.extend((router.db_for_read(Effect), router.db_for_read(ContentType), Effect.objects.using("other").db))

    pipeline = Pipeline()
    pipeline.on("order.created", look)
    make_message()
    use_replica(settings)
    pipeline.turn()
    assert seen == ["default", "replica", "other"]
    assert router.db_for_read(Effect) == "replica"


# The outbox itself


def test_no_query_of_the_outbox_goes_to_a_replica(settings: Any, admin_client: Client) -> None:
    pipeline = Pipeline()
    pipeline.on("order.created")
    dead = make_message("dead")
    make_failure(dead)
    settings.DATABASE_ROUTERS = [ReplicaRouter("django_outbox")]

    with transaction.atomic():
        publish("order.created", {})
        publish_many([Event(type="order.created", payload={})])
    pipeline.run()
    assert statuses() == {"consumed", "dead"}

    for page in (url("overview"), url("outboxmessage"), url("deadletter"), page_of(dead), url("inboxmessage")):
        assert admin_client.get(page).status_code == 200
    for command in (["outbox_status"], ["outbox_purge"], ["outbox_doctor", "--fail-on", "never"]):
        call_command(*command, stdout=io.StringIO())
    act(admin_client, "retry", dead)
    assert statuses() == {"consumed", "pending"}
