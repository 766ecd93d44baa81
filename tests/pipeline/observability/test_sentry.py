"""Traces by Sentry: they go on through the outbox, and each failure of a handler is one event."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import sentry_sdk
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, transaction
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.dedupe import DedupeIntegration
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.transport import Transport

from django_outbox.brokers.base import Acknowledged, Failed, Record, SendResult
from django_outbox.conf import settings
from django_outbox.events.event import Event
from django_outbox.events.payloads import RawBytes
from django_outbox.exceptions import Reject, Retry
from django_outbox.models import OutboxMessage
from django_outbox.observability.masking import MASK
from django_outbox.publishing import publish, publish_many
from django_outbox.state import outbox as state
from tests.support.inbox import Receiver, received
from tests.support.outbox import Pipeline, ScriptedBroker, make_due, row
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db(transaction=True)

CARD = {"card": "4111-2222", "pin": "77"}  # far from the code that Sentry quotes
SENTRY = "django_outbox.observability.sentry.SentryTracing"


class Sent(Transport):
    """Keeps what would go to Sentry."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []
        self.transactions: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        for item in envelope.items:
            event: Any = item.get_event() or item.get_transaction_event()
            if event is not None:
                (self.transactions if event.get("type") == "transaction" else self.events).append(event)

    def of(self, op: str) -> list[dict[str, Any]]:
        return [each for each in self.transactions if trace_of(each)["op"] == op]


def trace_of(event: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = event["contexts"]["trace"]
    return found


@pytest.fixture
def sent() -> Iterator[Sent]:
    transport = Sent()
    with outbox_settings(TRACING=SENTRY), sentry_sdk.isolation_scope():
        sentry_sdk.init(
            dsn="https://key@sentry.invalid/1",
            transport=transport,
            traces_sample_rate=1.0,
            # Others patch Django for all tests of this process.
            default_integrations=False,
            integrations=[LoggingIntegration(), DedupeIntegration()],
        )
        yield transport
        sentry_sdk.get_client().close()
        sentry_sdk.get_global_scope().set_client(None)


def send(event_type: str = "order.created", payload: Any = None, **options: Any) -> OutboxMessage:
    with transaction.atomic():
        return publish(event_type, payload, **options)


def request() -> Any:
    return sentry_sdk.start_transaction(op="http.server", name="/orders")


def test_a_handler_goes_on_with_the_trace_of_whoever_published(sent: Sent) -> None:
    pipeline = Pipeline()
    pipeline.on("order.created", lambda event: publish("order.paid", None))
    pipeline.on("order.paid")
    with request() as web:
        message = send(key="7")
    pipeline.run()

    (published,) = next(each for each in sent.transactions if each["transaction"] == "/orders")["spans"]
    assert (published["op"], published["description"]) == ("queue.publish", "outbox")
    assert published["data"]["messaging.message.id"] == str(message.event_id)
    assert row(message).headers["sentry-trace"].startswith(f"{web.trace_id}-{published['span_id']}")
    assert "sentry-trace_id=" in row(message).headers["baggage"]
    first, second = sent.of("queue.task.outbox")
    assert (first["transaction"], second["transaction"]) == ("order.created", "order.paid")
    assert trace_of(first)["trace_id"] == trace_of(second)["trace_id"] == web.trace_id
    assert trace_of(first)["parent_span_id"] == published["span_id"]
    assert trace_of(first)["status"] == "ok"
    process = next(span for span in first["spans"] if span["op"] == "queue.process")
    assert process["data"]["messaging.destination.name"] == "outbox"
    assert process["data"]["messaging.message.retry.count"] == 0
    assert process["data"]["messaging.message.receive.latency"] > 0
    assert {span["op"] for span in first["spans"]} >= {"queue.process", "queue.publish"}


def test_each_of_publish_many_has_a_span(sent: Sent) -> None:
    with request(), transaction.atomic():
        messages = publish_many([Event(type="order.created") for _ in range(2)])

    spans = sent.transactions[0]["spans"]
    assert [row(message).headers["sentry-trace"].split("-")[1] for message in messages] == [
        span["span_id"] for span in spans
    ]


def test_without_a_transaction_rows_do_not_grow(sent: Sent) -> None:
    assert row(send()).headers == {}


def test_a_context_that_the_caller_gives_is_left_as_it_is(sent: Sent) -> None:
    with request():
        message = send(headers={"sentry-trace": "mine"})

    assert row(message).headers == {"sentry-trace": "mine"}


def test_a_batch_of_the_relay_is_one_transaction(sent: Sent) -> None:
    def answer(records: Sequence[Record], outcomes: list[SendResult]) -> list[SendResult]:
        return [Acknowledged(0, 0), Failed("no answer")]

    send()
    send()
    Pipeline(ScriptedBroker(answer)).relay.run_once()

    (batch,) = sent.of("queue.submit.outbox")
    assert batch["transaction"] == "send outbox"
    assert trace_of(batch)["data"]["messaging.batch.message_count"] == 2
    assert trace_of(batch)["data"]["django_outbox.not_sent"] == 1
    assert trace_of(batch)["status"] == "internal_error"


def test_a_message_that_is_dead_as_it_could_not_be_sent_is_one_event(sent: Sent) -> None:
    message = send(max_retry=1)
    Pipeline(ScriptedBroker(lambda records, outcomes: [Failed("boom")])).relay.run_once()

    assert row(message).status == "dead"
    assert [event["logentry"]["message"] for event in sent.events] == [
        "Message %s (%s) could not be sent and is %s: %s"
    ]


@pytest.mark.parametrize("max_retry", [1, 2])
@pytest.mark.parametrize("steady", [True, False])
def test_a_failure_is_one_event_with_its_stack_in_the_trace_of_the_message(
    sent: Sent, steady: bool, max_retry: int
) -> None:
    def handle(event: Event) -> None:
        if event.payload == "spoiled":
            raise ArithmeticError("boom")

    pipeline = Pipeline(steady=steady)
    pipeline.on("order.created", handle)
    with request() as web:
        message = send(payload="spoiled", max_retry=max_retry)
    send()
    pipeline.turn()

    assert row(message).status == ("dead" if max_retry == 1 else "pending")
    (event,) = sent.events
    (exception,) = event["exception"]["values"]
    assert (exception["type"], exception["value"]) == ("ArithmeticError", "boom")
    assert exception["stacktrace"]["frames"][-1]["function"] == "handle"
    assert trace_of(event)["trace_id"] == web.trace_id
    assert event["contexts"]["outbox"]["messaging.message.id"] == str(message.event_id)
    assert "spoiled" not in str(event["contexts"])
    statuses = [trace_of(each)["status"] for each in sent.of("queue.task.outbox")]
    assert statuses == ["aborted", "internal_error", "ok"]


def test_a_batch_is_a_transaction_and_its_failure_an_event_of_the_message(sent: Sent) -> None:
    def handle(events: list[Event]) -> None:
        if any(event.payload == "spoiled" for event in events):
            raise ArithmeticError("no, spoiled")

    pipeline = Pipeline(steady=True)
    pipeline.on("order.created", handle, batch=10)
    send(payload="good")
    message = send(payload="spoiled")
    pipeline.turn()

    (event,) = sent.events
    assert event["exception"]["values"][-1]["value"] == f"no, {MASK}"
    assert event["contexts"]["outbox"]["messaging.message.id"] == str(message.event_id)
    told = [(trace_of(each)["status"], each["transaction"]) for each in sent.of("queue.task.outbox")]
    assert told == [("aborted", "order.created"), ("ok", "order.created"), ("internal_error", "order.created")]


def test_what_a_message_carries_stays_out_of_the_event_of_its_failure(sent: Sent) -> None:
    def handle(event: Event) -> None:
        card = event.payload["card"]
        try:
            raise KeyError(card)
        except KeyError as error:
            raise ArithmeticError(f"no card {card}") from error

    pipeline = Pipeline()
    pipeline.on("order.created", handle)
    send(payload=CARD)
    pipeline.turn()

    (event,) = sent.events
    values = event["exception"]["values"]
    assert [value["type"] for value in values] == ["KeyError", "ArithmeticError"]
    assert values[-1]["value"] == f"no card {MASK}"
    assert values[-1]["stacktrace"]["frames"][-1]["function"] == "handle"
    assert CARD["card"] not in str(event)
    assert "'pin'" not in str(event)


def test_bytes_stay_out_of_the_event_of_their_failure_too(sent: Sent) -> None:
    def handle(event: Event) -> None:
        raise ArithmeticError(f"no card {event.payload[6:15].decode()} {event.payload.hex()}")

    pipeline = Pipeline()
    pipeline.on("order.created", handle)
    payload = RawBytes(f"<card>{CARD['card']}".encode())
    with transaction.atomic():
        publish("order.created", payload)
    pipeline.turn()

    (event,) = sent.events
    value = event["exception"]["values"][-1]
    assert (value["type"], value["value"]) == ("ArithmeticError", "(details hidden: the payload is bytes)")
    assert CARD["card"] not in str(event)
    assert payload.hex() not in str(event)


def test_each_failed_try_is_one_event(sent: Sent) -> None:
    def handle(event: Event) -> None:
        raise ArithmeticError("boom")

    pipeline = Pipeline()
    pipeline.on("order.created", handle)
    message = send(max_retry=2)
    pipeline.turn()
    make_due(message)
    pipeline.turn()

    assert row(message).status == "dead"
    assert [event["exception"]["values"][0]["type"] for event in sent.events] == ["ArithmeticError"] * 2


@pytest.mark.parametrize("error", [Reject("nobody wants it"), Retry(5)])
def test_what_a_handler_asks_for_is_only_told_when_the_message_is_dead(sent: Sent, error: Exception) -> None:
    def handle(event: Event) -> None:
        raise error

    pipeline = Pipeline()
    pipeline.on("order.created", handle)
    message = send(max_retry=2)
    for _ in range(2):
        pipeline.turn()
        make_due(message)

    assert row(message).status == "dead"
    (event,) = sent.events
    assert "exception" not in event
    assert "is dead" in event["logentry"]["message"] or "and is %s" in event["logentry"]["message"]


def test_a_fault_that_passes_is_no_event(sent: Sent) -> None:
    tries: list[Event] = []

    def handle(event: Event) -> None:
        tries.append(event)
        if len(tries) == 1:
            raise OperationalError("database is locked")

    pipeline = Pipeline()
    pipeline.on("order.created", handle)
    message = send()
    pipeline.turn()

    assert row(message).status == "consumed"
    assert len(tries) == 2
    assert sent.events == []


def test_what_fails_after_its_handlers_is_an_event_of_the_message(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    def unmarked(*arguments: Any, **options: Any) -> None:
        raise ArithmeticError("the commit failed")

    pipeline = Pipeline()
    pipeline.on("order.created")
    message = send()
    pipeline.relay.run_once()
    monkeypatch.setattr(state, "mark_consumed", unmarked)
    pipeline.consumer.run_once()

    assert sent.events[0]["contexts"]["outbox"]["messaging.message.id"] == str(message.event_id)


def test_a_handler_sees_no_scope_of_another_message(sent: Sent) -> None:
    def handle(event: Event) -> None:
        seen.append(dict(sentry_sdk.get_isolation_scope()._tags))
        sentry_sdk.set_tag("order", event.payload)

    seen: list[Any] = []
    pipeline = Pipeline(steady=True)
    pipeline.on("order.created", handle)
    for number in range(2):
        send(payload=number)
    pipeline.turn()

    assert seen == [{}, {}]
    assert [each["tags"]["order"] for each in sent.of("queue.task.outbox")] == [0, 1]


def test_the_trace_of_another_service_goes_on_in_the_inbox(sent: Sent) -> None:
    trace_id, span_id = "0af7651916cd43dd8448eb211c80319c", "00f067aa0ba902b7"
    receiver = Receiver()
    receiver.on("order.created")

    assert receiver.receive(received(headers=(("sentry-trace", f"{trace_id}-{span_id}-1".encode()),))) == ["consumed"]

    (task,) = sent.of("queue.task.outbox")
    assert (trace_of(task)["trace_id"], trace_of(task)["parent_span_id"]) == (trace_id, span_id)


def test_before_sentry_is_set_up_all_works() -> None:
    pipeline = Pipeline()
    pipeline.on("order.created")
    with outbox_settings(TRACING=SENTRY):
        message = send()
        pipeline.turn()

    assert (row(message).status, row(message).headers) == ("consumed", {})


def test_asked_for_and_not_installed_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentry_sdk", None)
    monkeypatch.delitem(sys.modules, "django_outbox.observability.sentry", raising=False)

    with outbox_settings(TRACING=SENTRY), pytest.raises(ImproperlyConfigured) as error:
        _ = settings.tracing

    assert "Sentry's SDK is not installed: pip install sentry-sdk." in str(error.value)
