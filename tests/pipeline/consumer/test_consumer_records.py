"""The consumer: records that are not to be handled are skipped, or left to the inbox."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from django_outbox.models import InboxMessage
from django_outbox.models.fields import DatabaseNow
from tests.support.effects import effect_of_type, effects
from tests.support.outbox import Pipeline, Status, make_message, memory_broker, row, send

pytestmark = pytest.mark.django_db


# Records that are not the one to handle


def test_a_record_that_comes_twice_is_handled_once(pipeline: Pipeline) -> None:
    pipeline.on("order.created", effect_of_type)
    message = make_message()
    pipeline.relay.run_once()
    pipeline.deliver(message, publish_count=0)  # a copy of what the relay has sent

    batch = pipeline.consumer.run_once()

    assert (batch.consumed, batch.skipped) == (1, 1)
    assert effects() == ["order.created"]


def test_a_record_that_is_read_again_after_a_kill_is_skipped(pipeline: Pipeline) -> None:
    """Killed between the database's commit and that of the offset."""
    pipeline.on("order.created", effect_of_type)
    pipeline.consumer.run_once()
    make_message()
    pipeline.relay.run_once()
    subscription = pipeline.consumer.subscription
    assert subscription is not None
    subscription.commit = lambda offsets: None  # type: ignore[method-assign]
    assert pipeline.consumer.run_once().consumed == 1

    pipeline.restart_consumer()

    assert pipeline.consumer.run_once().skipped == 1
    assert effects() == ["order.created"]


def test_a_record_whose_relay_was_killed_before_its_commit_is_skipped(pipeline: Pipeline) -> None:
    pipeline.on("order.created", effect_of_type)
    message = make_message()
    pipeline.deliver(message)

    assert pipeline.consumer.run_once().skipped == 1
    assert row(message).status == Status.PENDING
    pipeline.run()

    assert effects() == ["order.created"]


def test_an_older_publication_of_a_message_is_skipped(pipeline: Pipeline) -> None:
    pipeline.on("order.created", effect_of_type)
    message = make_message(Status.PUBLISHED, publish_count=2)
    pipeline.deliver(message, publish_count=0)

    assert pipeline.consumer.run_once().skipped == 1
    assert row(message).status == Status.PUBLISHED


@pytest.mark.parametrize("status", [Status.CONSUMED, Status.DEAD])
def test_final_states_are_never_handled(pipeline: Pipeline, status: str) -> None:
    pipeline.on("order.created")  # not even an effect that would be rolled back
    message = make_message(status, publish_count=1)
    pipeline.deliver(message, publish_count=0)

    assert pipeline.consumer.run_once().skipped == 1
    assert (row(message).status, pipeline.handled) == (status, [])


def test_a_forged_record_cannot_feed_a_handler(pipeline: Pipeline) -> None:
    pipeline.on("order.created")
    message = make_message(Status.PUBLISHED, payload={"amount": 5}, message_key="mine")
    forged = {"payload_json": '{"amount": 5000}', "headers_json": '{"x": "y"}', "message_key": "another"}
    pipeline.deliver(message, publish_count=0, **forged)

    pipeline.consumer.run_once()

    (event,) = pipeline.handled
    assert (event.payload, event.headers, event.key) == ({"amount": 5}, {}, "mine")


def test_a_forged_event_type_does_not_choose_the_handler(pipeline: Pipeline) -> None:
    pipeline.on("order.created")
    pipeline.on("refund", effect_of_type)
    message = make_message(Status.PUBLISHED)
    pipeline.deliver(message, publish_count=0, event_type="refund")

    pipeline.consumer.run_once()

    assert [event.type for event in pipeline.handled] == ["order.created"]
    assert not effects()


def test_a_forged_event_type_does_not_end_a_message_that_is_for_others(pipeline: Pipeline) -> None:
    pipeline.on("order.created")
    message = make_message(Status.PUBLISHED, event_type="for.others")
    pipeline.deliver(message, publish_count=0, event_type="order.created")

    assert pipeline.consumer.run_once().skipped == 1
    assert (row(message).status, pipeline.handled) == (Status.PUBLISHED, [])


def test_a_record_in_another_topic_than_its_message_is_skipped() -> None:
    pipeline = Pipeline(topics=["outbox", "another"])
    pipeline.on("order.created")
    message = make_message(Status.PUBLISHED, partition=0, offset=0)
    pipeline.deliver(message, publish_count=0, topic="another")

    assert pipeline.consumer.run_once().skipped == 1
    assert (row(message).status, pipeline.handled) == (Status.PUBLISHED, [])


@pytest.mark.parametrize(("partition", "offset"), [(0, 1), (1, 0)])
def test_a_record_in_another_place_than_its_message_is_skipped(pipeline: Pipeline, partition: int, offset: int) -> None:
    """Two relays, of which the first was killed, have sent the same attempt."""
    pipeline.on("order.created")
    message = make_message(Status.PUBLISHED, partition=partition, offset=offset)
    pipeline.deliver(message, publish_count=0)

    assert pipeline.consumer.run_once().skipped == 1
    assert (row(message).status, pipeline.handled) == (Status.PUBLISHED, [])


def test_a_record_with_another_events_id_is_skipped(pipeline: Pipeline) -> None:
    pipeline.on("order.created")
    message = make_message(Status.PUBLISHED)
    pipeline.deliver(message, publish_count=0, event_id=uuid.uuid4())

    assert pipeline.consumer.run_once().skipped == 1


def test_a_record_without_row_is_not_a_success(pipeline: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    pipeline.on("order.created")
    message = make_message(created_at=DatabaseNow() - timedelta(hours=2))
    pipeline.relay.run_once()
    message.delete()

    batch = pipeline.consumer.run_once()

    assert (batch.consumed, batch.skipped) == (0, 1)
    assert "there is no outbox message" in caplog.text


def test_records_of_other_services_are_for_the_inbox(pipeline: Pipeline) -> None:
    pipeline.on("order.created", effect_of_type)
    message = make_message(Status.PUBLISHED)
    record = pipeline.deliver(message, publish_count=0)
    foreign = [(n, b"other" if n == "ce_source" else v) for n, v in record.headers]
    pipeline.restart_consumer()
    broker = pipeline.broker = memory_broker()
    send(broker, headers=foreign)

    assert pipeline.consumer.run_once().consumed == 1
    assert row(message).status == Status.PUBLISHED
    assert InboxMessage.objects.get().source == "other"


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (b"", []),
        (b"not json", []),
        (b"[1]", []),
        (b'{"outbox_id": "1"}', []),
        (b"\xff\xfe", []),
        (b"{}", [("ce_specversion", b"1.0")]),
        (b"{}", [("ce_specversion", b"9.9")]),
        (b"{}", [("ce_specversion", b"1.0"), ("ce_outboxid", b"-1")]),
    ],
)
def test_unreadable_records_are_dead_in_the_inbox(pipeline: Pipeline, value: bytes, headers: Any) -> None:
    pipeline.on("order.created", effect_of_type)
    send(pipeline.broker, value=value, headers=headers)
    make_message()

    pipeline.relay.run_once()
    batch = pipeline.consumer.run_once()

    assert (batch.dead, batch.consumed) == (1, 1)
    assert InboxMessage.objects.get().last_error.startswith("It cannot be read: ")


def test_both_wire_formats_are_read(pipeline: Pipeline, settings: Any) -> None:
    pipeline.on("order.created", effect_of_type)
    for wire_format in ("cloudevents", "envelope"):
        settings.OUTBOX = {**settings.OUTBOX, "WIRE_FORMAT": wire_format}
        make_message()
        pipeline.relay.run_once()

    assert pipeline.consumer.run_once().consumed == 2


def test_an_envelope_of_the_former_system_without_headers_is_read(pipeline: Pipeline) -> None:
    pipeline.on("order.created", effect_of_type)
    message = make_message(Status.PUBLISHED)
    value = f'{{"outbox_id": {message.id}, "event_id": "{message.event_id}", "event_type": "order.created"}}'
    send(pipeline.broker, value=value.encode())

    assert pipeline.consumer.run_once().consumed == 1


# Unknown events


def test_unknown_events_are_left_to_others_by_default(pipeline: Pipeline) -> None:
    pipeline.on("order.created")
    message = make_message(event_type="audit.written")
    pipeline.relay.run_once()

    with CaptureQueriesContext(connection) as queries:
        assert pipeline.consumer.run_once().skipped == 1

    assert [q["sql"] for q in queries if "django_outbox_pause" not in q["sql"]] == []
    assert row(message).status == Status.PUBLISHED


def test_unknown_events_may_be_dead(pipeline: Pipeline, settings: Any) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "UNKNOWN_EVENT": "dead"}
    message = make_message(event_type="audit.written")

    assert pipeline.turn().dead == 1

    assert row(message).status == Status.DEAD
    assert row(message).last_error.startswith("No handler is registered for 'audit.written'")


def test_a_handler_of_another_topic_does_not_run(pipeline: Pipeline) -> None:
    pipeline.handlers.register("order.created", effect_of_type, topic="elsewhere")
    message = make_message()

    assert pipeline.turn().skipped == 1
    assert (row(message).status, effects()) == (Status.PUBLISHED, [])
