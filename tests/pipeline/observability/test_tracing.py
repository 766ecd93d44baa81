"""Traces by OpenTelemetry: from publish() through relay and consumer into what handlers do, and never in their way."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, transaction
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Sampler, SamplingResult
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, TraceState

from django_outbox.brokers.base import Acknowledged, Failed, Record, Refused, SendResult
from django_outbox.conf import settings
from django_outbox.events.event import Event
from django_outbox.exceptions import BrokerUnavailable, InvalidMessage, Reject
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.publishing import publish, publish_many
from django_outbox.state import outbox as state
from tests.support.inbox import Receiver, plain, received
from tests.support.mute import Mute
from tests.support.outbox import Pipeline, ScriptedBroker, make_due, row, statuses
from tests.support.overrides import outbox_settings
from tests.support.tracing import Spans, attributes, carried_by, failed, identity, links_of, parent_of

pytestmark = pytest.mark.django_db(transaction=True)

TRACE_ID, SPAN_ID = 0x0AF7651916CD43DD8448EB211C80319C, 0x00F067AA0BA902B7
TRACEPARENT = f"00-{TRACE_ID:032x}-{SPAN_ID:016x}-01"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    return Spans(monkeypatch)


@pytest.fixture
def without_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)


@pytest.fixture
def remote_trace() -> Iterator[None]:
    """As a middleware leaves it that has read the headers of a request, with or without an SDK."""
    flags, tracestate = TraceFlags(TraceFlags.SAMPLED), TraceState([("vendor", "1")])
    parent = NonRecordingSpan(SpanContext(TRACE_ID, SPAN_ID, is_remote=True, trace_flags=flags, trace_state=tracestate))
    token = context.attach(baggage.set_baggage("tenant", "blue", trace.set_span_in_context(parent)))
    yield
    context.detach(token)


def send(event_type: str = "order.created", payload: Any = None, **options: Any) -> OutboxMessage:
    with transaction.atomic():
        return publish(event_type, payload, **options)


# Publishing


def test_publish_makes_a_create_span_and_its_context_is_what_the_row_carries(spans: Spans) -> None:
    with spans.request() as request:
        message = send(key="7", topic="orders")

    create = spans.one("create")
    assert (create.name, create.kind) == ("create orders", SpanKind.PRODUCER)
    assert parent_of(create) == identity(request)
    assert carried_by(row(message).headers) == identity(create)
    assert attributes(create) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "create",
        "messaging.operation.type": "create",
        "messaging.destination.name": "orders",
        "messaging.message.id": str(message.event_id),
        "messaging.kafka.message.key": "7",
        "cloudevents.event_type": "order.created",
    }
    assert not failed(create)
    scope = create.instrumentation_scope
    assert scope is not None
    assert scope.name == "django_outbox"
    assert (scope.schema_url or "").startswith("https://opentelemetry.io/schemas/1.")


def test_each_of_publish_many_has_a_create_span_and_a_context_of_its_own(spans: Spans) -> None:
    with spans.request() as request, transaction.atomic():
        messages = publish_many([Event(type="order.created", payload=n) for n in range(3)])

    creates = spans.of("create")
    assert [carried_by(row(message).headers) for message in messages] == [identity(span) for span in creates]
    assert {parent_of(span) for span in creates} == {identity(request)}
    assert len({identity(span) for span in creates}) == 3


@pytest.mark.usefixtures("remote_trace")
def test_tracestate_and_baggage_are_carried_as_well(spans: Spans) -> None:
    headers = row(send(headers={"own": "1"})).headers

    assert set(headers) == {"own", "traceparent", "tracestate", "baggage"}
    assert (headers["tracestate"], headers["baggage"]) == ("vendor=1", "tenant=blue")


def test_without_a_current_span_nothing_is_recorded_and_rows_do_not_grow(spans: Spans) -> None:
    assert row(send()).headers == {}
    assert spans.all() == []


@pytest.mark.parametrize("name", ["traceparent", "Traceparent", "tracestate"])
def test_a_context_that_the_caller_gives_is_left_as_it_is(spans: Spans, name: str) -> None:
    with spans.request():
        message = send(headers={name: TRACEPARENT})

    assert row(message).headers == {name: TRACEPARENT}
    assert spans.of("create") == []


@pytest.mark.usefixtures("remote_trace")
def test_baggage_that_the_caller_gives_wins_and_the_trace_goes_on(spans: Spans) -> None:
    message = send(headers={"baggage": "tenant=green"})

    assert row(message).headers["baggage"] == "tenant=green"
    assert carried_by(row(message).headers) == identity(spans.one("create"))


def test_a_message_that_the_database_refuses_is_an_error_of_its_span(spans: Spans) -> None:
    message = send()
    with spans.request(), suppress(DatabaseError):
        send(event_id=message.event_id)

    create = spans.one("create")
    assert failed(create)
    assert attributes(create)["error.type"] == "django.db.utils.IntegrityError"


def test_a_message_that_is_refused_before_it_is_written_has_no_span(spans: Spans) -> None:
    with spans.request(), suppress(InvalidMessage):
        send("")

    assert spans.of("create") == []


@pytest.mark.usefixtures("remote_trace")
def test_what_no_database_can_store_is_not_carried(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    class Propagator:
        fields = frozenset({"traceparent", "broken"})

        def inject(self, carrier: dict[str, str], context: Any = None, setter: Any = None) -> None:
            carrier.update({"traceparent": TRACEPARENT, "broken": "a\0b"})

    monkeypatch.setattr("opentelemetry.propagate._HTTP_TEXT_FORMAT", Propagator())

    assert row(send()).headers == {"traceparent": TRACEPARENT}


# The relay


def test_a_batch_has_one_send_span_that_links_to_where_its_messages_were_created(spans: Spans) -> None:
    pipeline = Pipeline()
    with spans.request():
        messages = [send(topic="orders", key="7"), send(topic="orders")]
    send(topic="orders")  # outside of any trace

    pipeline.relay.run_once()

    span = spans.one("send")
    assert (span.name, span.kind, span.parent) == ("send orders", SpanKind.CLIENT, None)
    assert links_of(span) == [identity(create) for create in spans.of("create")]
    assert [dict(link.attributes or {}) for link in span.links] == [
        {"messaging.message.id": str(messages[0].event_id), "messaging.kafka.message.key": "7"},
        {"messaging.message.id": str(messages[1].event_id)},
    ]
    assert attributes(span) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.batch.message_count": 3,
        "messaging.destination.name": "orders",
    }
    assert not failed(span)


def test_a_batch_for_several_topics_names_none(spans: Spans) -> None:
    send(topic="orders")
    send(topic="mails")

    Pipeline().relay.run_once()

    assert spans.one("send").name == "send"
    assert "messaging.destination.name" not in attributes(spans.one("send"))


def test_a_pass_with_nothing_to_send_has_no_span(spans: Spans) -> None:
    relay = Pipeline().relay
    relay.run_once()
    relay.run_once()

    assert spans.all() == []


def test_what_the_broker_did_not_take_is_told_by_message(spans: Spans) -> None:
    def answer(records: Sequence[Record], outcomes: list[SendResult]) -> list[SendResult]:
        return [Acknowledged(0, 0), Refused("too large"), Failed("no answer")]

    messages = [send(key=str(number)) for number in range(3)]
    Pipeline(ScriptedBroker(answer)).relay.run_once()

    span = spans.one("send")
    assert failed(span)
    assert span.status.description == "2 of 3 messages were not sent."
    assert attributes(span)["error.type"] == "Refused"
    assert [dict(event.attributes or {}) for event in span.events] == [
        {
            "messaging.message.id": str(message.event_id),
            "messaging.kafka.message.key": message.message_key,
            "messaging.destination.name": "outbox",
            "error.type": kind,
            "django_outbox.reason": reason,
        }
        for message, kind, reason in zip(messages[1:], ["Refused", "Failed"], ["too large", "no answer"], strict=True)
    ]


def test_a_broker_that_is_away_is_an_error_of_the_batch_and_the_next_try_is_another_span(spans: Spans) -> None:
    answers: list[Any] = [BrokerUnavailable("gone"), [Acknowledged(0, 0)]]

    def answer(records: Sequence[Record], outcomes: list[SendResult]) -> list[SendResult]:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return list(found)

    relay = Pipeline(ScriptedBroker(answer)).relay
    message = send()
    with suppress(BrokerUnavailable):
        relay.run_once()
    relay.run_once()

    assert [failed(span) for span in spans.of("send")] == [True, False]
    assert attributes(spans.of("send")[0])["error.type"] == "django_outbox.exceptions.BrokerUnavailable"
    assert row(message).status == "published"


# The consumer


def test_a_handler_runs_in_a_process_span_that_goes_on_from_where_the_message_was_created(spans: Spans) -> None:
    pipeline = Pipeline()
    inside: list[Any] = []
    pipeline.on("order.created", lambda event: inside.append(trace.get_current_span()))
    with spans.request() as request:
        message = send(topic="outbox", key="7")

    pipeline.turn()

    create, process = spans.one("create"), spans.one("process")
    assert (process.name, process.kind) == ("process outbox", SpanKind.CONSUMER)
    assert parent_of(process) == identity(create)
    assert links_of(process) == [identity(create)]
    assert identity(process)[0] == identity(request)[0]
    assert [identity(span) for span in inside] == [identity(process)]
    assert not failed(process)
    assert attributes(process) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "outbox",
        "messaging.destination.partition.id": "0",
        "messaging.kafka.offset": 0,
        "messaging.consumer.group.name": "tests",
        "messaging.message.id": str(message.event_id),
        "messaging.kafka.message.key": "7",
        "cloudevents.event_type": "order.created",
        "cloudevents.event_source": "tests",
        "django_outbox.attempt": 1,
    }
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.parametrize("steady", [True, False])
def test_what_a_handler_publishes_goes_on_with_the_trace_and_the_baggage(spans: Spans, steady: bool) -> None:
    pipeline = Pipeline(steady=steady)
    tenants: list[Any] = []
    pipeline.on("order.created", lambda event: publish("order.paid", event.payload))
    pipeline.on("order.paid", lambda event: tenants.append((event.payload, baggage.get_baggage("tenant"))))
    requests = []
    for tenant in ("blue", "green"):
        with spans.request() as request:
            token = context.attach(baggage.set_baggage("tenant", tenant))
            send(payload=tenant)
            context.detach(token)
        requests.append(request)

    pipeline.run()

    assert sorted(tenants) == [("blue", "blue"), ("green", "green")]
    for request in requests:
        own = [span for span in spans.all() if identity(span)[0] == identity(request)[0]]
        names = [span.name for span in sorted(own, key=lambda span: span.start_time or 0)]
        assert names == ["request", "create outbox", "process outbox", "create outbox", "process outbox"]


def test_an_async_handler_runs_in_the_span_as_well(spans: Spans) -> None:
    pipeline = Pipeline()
    inside: list[Any] = []

    async def handle(event: Event) -> None:
        inside.append(trace.get_current_span())

    pipeline.on("order.created", handle)
    send()
    with outbox_settings(HANDLER_TIMEOUT=30):
        pipeline.turn()

    assert [identity(span) for span in inside] == [identity(spans.one("process"))]


def test_a_message_without_a_trace_begins_one(spans: Spans) -> None:
    pipeline = Pipeline()
    pipeline.on("order.created")
    send()

    pipeline.turn()

    process = spans.one("process")
    assert (process.parent, list(process.links)) == (None, [])


def test_within_a_span_of_the_project_that_one_is_the_parent_and_the_creation_is_linked(spans: Spans) -> None:
    pipeline = Pipeline()
    pipeline.on("order.created", lambda event: publish("order.paid", None))
    with spans.request():
        send()
    pipeline.relay.run_once()
    with spans.request() as loop:
        pipeline.consumer.run_once()

    process = spans.one("process")
    assert parent_of(process) == identity(loop)
    assert links_of(process) == [identity(spans.of("create")[0])]
    assert parent_of(spans.of("create")[1]) == identity(process)


def test_each_retry_is_a_process_span_of_its_own(spans: Spans) -> None:
    pipeline = Pipeline()
    tries: list[Event] = []

    def handle(event: Event) -> None:
        tries.append(event)
        if len(tries) == 1:
            raise ArithmeticError("not yet")

    pipeline.on("order.created", handle)
    with spans.request():
        message = send()
    pipeline.turn()
    make_due(message)
    pipeline.turn()

    first, second = spans.of("process")
    assert [failed(first), failed(second)] == [True, False]
    assert attributes(first)["error.type"] == "ArithmeticError"
    assert first.status.description == "ArithmeticError: not yet"
    assert (first.events[0].attributes or {})["exception.message"] == "not yet"
    assert [attributes(span)["django_outbox.attempt"] for span in (first, second)] == [1, 2]
    assert parent_of(first) == parent_of(second) == identity(spans.one("create"))
    assert "error.type" not in attributes(second)


def test_a_rejected_message_is_an_error(spans: Spans) -> None:
    def handle(event: Event) -> None:
        raise Reject("nobody wants it")

    pipeline = Pipeline()
    pipeline.on("order.created", handle)
    send()
    pipeline.turn()

    assert attributes(spans.one("process"))["error.type"] == "django_outbox.exceptions.Reject"


def test_an_error_that_cannot_say_what_it_is_ends_its_span(spans: Spans) -> None:
    def handle(event: Event) -> None:
        raise Mute

    pipeline = Pipeline()
    pipeline.on("order.created", handle)
    send()
    pipeline.turn()

    assert attributes(spans.one("process"))["error.type"] == "tests.support.mute.Mute"


@pytest.mark.parametrize("steady", [True, False])
def test_a_success_is_only_told_once_it_is_committed(
    spans: Spans, monkeypatch: pytest.MonkeyPatch, steady: bool
) -> None:
    pipeline = Pipeline(steady=steady)
    told: list[int] = []
    pipeline.on("order.created")
    for _ in range(2):
        send()
    pipeline.relay.run_once()
    mark_consumed = state.mark_consumed

    def marked(*arguments: Any, **options: Any) -> None:
        mark_consumed(*arguments, **options)
        told.append(len(spans.of("process")))

    monkeypatch.setattr(state, "mark_consumed", marked)
    pipeline.consumer.run_once()

    assert told == [0]
    assert [failed(span) for span in spans.of("process")] == [False, False]
    for span in spans.of("process"):
        assert (span.end_time or 0) >= (span.start_time or 0)


def test_what_fails_after_its_handlers_is_an_error(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    def unmarked(*arguments: Any, **options: Any) -> None:
        raise ArithmeticError("the commit failed")

    pipeline = Pipeline()
    pipeline.on("order.created")
    send()
    pipeline.relay.run_once()
    monkeypatch.setattr(state, "mark_consumed", unmarked)
    pipeline.consumer.run_once()

    assert attributes(spans.one("process"))["error.type"] == "ArithmeticError"


# Many messages in one transaction


def test_messages_of_one_transaction_have_a_process_span_each(spans: Spans) -> None:
    pipeline = Pipeline(steady=True)
    pipeline.on("order.created")
    with spans.request():
        for number in range(2):
            send(payload=number)
    pipeline.relay.run_once()

    batch = pipeline.consumer.run_once()

    assert batch.consumed == 2
    assert [parent_of(span) for span in spans.of("process")] == [identity(span) for span in spans.of("create")]
    assert not any(failed(span) for span in spans.of("process"))


def test_a_batch_has_one_process_span_that_links_to_where_its_messages_were_created(spans: Spans) -> None:
    pipeline = Pipeline(steady=True)
    pipeline.on("order.created", batch=10)
    with spans.request():
        messages = [send(payload=number, key=str(number)) for number in range(2)]
        messages.append(send(payload=2))
    pipeline.relay.run_once()

    assert pipeline.consumer.run_once().consumed == 3

    process = spans.one("process")
    assert (process.name, process.kind, parent_of(process)) == ("process outbox", SpanKind.CONSUMER, None)
    assert links_of(process) == [identity(span) for span in spans.of("create")]
    assert [dict(link.attributes or {})["messaging.message.id"] for link in process.links] == [
        str(message.event_id) for message in messages
    ]
    assert attributes(process) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "outbox",
        "messaging.batch.message_count": 3,
        "messaging.consumer.group.name": "tests",
        "cloudevents.event_type": "order.created",
    }


def test_a_list_of_one_goes_on_from_where_its_message_was_created(spans: Spans) -> None:
    pipeline = Pipeline(steady=True)
    pipeline.on("order.created", batch=10)
    with spans.request():
        send()
    pipeline.turn()
    assert parent_of(spans.one("process")) == identity(spans.one("create"))


def test_a_batch_that_is_handled_again_without_some_was_rolled_back(spans: Spans) -> None:
    def handle(events: list[Event]) -> None:
        if bad := [event for event in events if event.payload == "bad"]:
            raise Reject("never", events=bad)

    pipeline = Pipeline(steady=True)
    pipeline.on("order.created", handle, batch=10)
    for payload in ("good", "bad", "late"):
        send(payload=payload)
    pipeline.turn()

    assert statuses() == ["consumed", "dead", "consumed"]
    told = [
        (attributes(span)["messaging.batch.message_count"], attributes(span).get("django_outbox.redone", False))
        for span in spans.of("process")
    ]
    assert told == [(3, True), (2, False)]


def test_one_that_is_redone_alone_is_told_as_one_success_and_its_first_try_as_rolled_back(spans: Spans) -> None:
    def handle(event: Event) -> None:
        if event.payload == "bad":
            raise ArithmeticError("boom")

    pipeline = Pipeline(steady=True)
    pipeline.on("order.created", handle)
    pipeline.consumer.lanes.engines[0].transaction_size = 100
    good, bad, late = (send(payload=payload) for payload in ("good", "bad", "late"))
    pipeline.relay.run_once()

    pipeline.consumer.run_once()

    assert statuses() == ["consumed", "pending", "consumed"]
    told = [
        (
            attributes(span)["messaging.message.id"],
            attributes(span).get("error.type"),
            attributes(span).get("django_outbox.redone", False),
            failed(span),
        )
        for span in spans.of("process")
    ]
    assert told == [
        (str(good.event_id), "rolled_back", True, True),
        (str(bad.event_id), "ArithmeticError", True, True),
        (str(good.event_id), None, False, False),
        (str(bad.event_id), "ArithmeticError", False, True),
        (str(late.event_id), None, False, False),
    ]


# The inbox


def by_header(spans: Spans) -> Any:
    return received(headers=(("traceparent", TRACEPARENT.encode()),))


def by_extension(spans: Spans) -> Any:
    return received(traceparent=TRACEPARENT)


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("record", [by_header, by_extension])
def test_the_trace_of_another_service_goes_on_in_the_inbox(
    spans: Spans, record: Callable[[Spans], Any], counted: bool
) -> None:
    receiver = Receiver()
    receiver.on("order.created", lambda event: publish("order.paid", None))

    assert receiver.receive(record(spans), counted=counted) == ["consumed"]

    process = spans.one("process")
    assert parent_of(process) == (TRACE_ID, SPAN_ID)
    assert links_of(process) == [(TRACE_ID, SPAN_ID)]
    assert attributes(process)["cloudevents.event_source"] == "warehouse"
    assert attributes(process)["messaging.destination.name"] == "elsewhere"
    assert parent_of(spans.one("create")) == identity(process)


def test_a_record_that_a_mapper_reads_keeps_its_trace_unless_the_mapper_names_another(spans: Spans) -> None:
    other = TRACEPARENT.replace("0af7", "1af7")
    headers = (("traceparent", TRACEPARENT.encode()), ("traceparent", b"second"), ("own", b"1"), ("tracestate", b"a=1"))

    def mapper(record: Any) -> Event:
        return Event(type="order.created", headers={} if record.value == b"plain" else {"traceparent": other})

    with outbox_settings(INBOX={"elsewhere": mapper}):
        receiver = Receiver()
        receiver.on("order.created")
        receiver.receive(plain(b"plain", headers=headers))
        receiver.receive(plain(b"named", headers=headers))

    assert [event.headers for event in receiver.handled] == [
        {"traceparent": TRACEPARENT, "tracestate": "a=1"},
        {"traceparent": other, "tracestate": "a=1"},
    ]
    assert [hex(identity(span)[0])[2:5] for span in spans.of("process")] == ["af7", "1af"]


def test_records_that_are_received_together_have_a_span_each_and_are_redone_one_by_one(spans: Spans) -> None:
    def handle(event: Event) -> None:
        if event.payload == "bad":
            raise ArithmeticError("boom")

    receiver = Receiver()
    receiver.on("order.created", handle)

    assert receiver.receive(received("good"), received("bad")) == ["consumed", "failed"]

    told = [
        (attributes(span).get("error.type"), "django_outbox.redone" in attributes(span)) for span in spans.of("process")
    ]
    assert told == [("rolled_back", True), ("ArithmeticError", True), (None, False), ("ArithmeticError", False)]


def test_of_several_tries_together_none_is_told_as_final(spans: Spans) -> None:
    """So that Sentry reports each failure once."""

    def handle(event: Event) -> None:
        if event.payload == "breaks":
            InboxMessage.objects.all().delete()
        elif event.payload == "meets it" and not InboxMessage.objects.exists():
            raise ArithmeticError

    receiver = Receiver()
    receiver.on("order.created", handle)
    events = [received(payload) for payload in ("good", "breaks", "meets it")]

    assert receiver.receive(*events) == ["consumed", "failed", "consumed"]

    told = [("django_outbox.redone" in attributes(span), failed(span)) for span in spans.of("process")]
    assert told == [(True, True)] * 5 + [(False, False), (False, True), (False, False)]


def test_a_retry_from_the_stored_row_goes_on_with_the_same_trace(spans: Spans) -> None:
    tries: list[Event] = []

    def handle(event: Event) -> None:
        tries.append(event)
        if len(tries) == 1:
            raise ArithmeticError("not yet")

    receiver = Receiver()
    receiver.on("order.created", handle)
    assert receiver.receive(by_header(spans)) == ["failed"]
    assert receiver.retry() == ["consumed"]

    assert [failed(span) for span in spans.of("process")] == [True, False]
    assert [attributes(span)["django_outbox.attempt"] for span in spans.of("process")] == [1, 2]
    assert {parent_of(span) for span in spans.of("process")} == {(TRACE_ID, SPAN_ID)}


# Without an SDK, with one that does not sample, and without OpenTelemetry


@pytest.mark.usefixtures("without_sdk", "remote_trace")
def test_without_an_sdk_the_context_is_passed_on_through_publish_and_handlers() -> None:
    pipeline = Pipeline(steady=True)
    pipeline.on("order.created", lambda event: publish("order.paid", baggage.get_baggage("tenant")))
    first = send()
    assert carried_by(row(first).headers) == (TRACE_ID, SPAN_ID)

    token = context.attach(context.Context())
    pipeline.turn()
    context.detach(token)

    second = OutboxMessage.objects.get(event_type="order.paid")
    assert carried_by(second.headers) == (TRACE_ID, SPAN_ID)
    assert second.payload == "blue"
    assert row(first).status == "consumed"


@pytest.mark.usefixtures("without_sdk")
def test_without_an_sdk_and_a_context_all_works_and_rows_do_not_grow() -> None:
    pipeline = Pipeline()
    pipeline.on("order.created")
    message = send()
    pipeline.turn()

    assert (row(message).status, row(message).headers) == ("consumed", {})


def test_a_trace_that_is_not_sampled_is_carried_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = Spans(monkeypatch, sampler=ALWAYS_OFF)
    with spans.request():
        headers = row(send()).headers

    assert not int(headers["traceparent"][-2:], 16) & TraceFlags.SAMPLED
    assert spans.all() == []


def test_switched_off_nothing_is_recorded_carried_or_passed_on(spans: Spans) -> None:
    pipeline = Pipeline()
    inside: list[Any] = []
    pipeline.on("order.created", lambda event: inside.append(trace.get_current_span()))
    with outbox_settings(TRACING=False):
        with spans.request():
            message = send()
        pipeline.turn()

    assert row(message).headers == {}
    assert [span.name for span in spans.all()] == ["request"]
    assert inside == [trace.INVALID_SPAN]


def test_asked_for_and_not_installed_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)

    with outbox_settings(TRACING=True), pytest.raises(ImproperlyConfigured) as error:
        _ = settings.tracing

    assert str(error.value) == (
        "OUTBOX[\"TRACING\"] is True, but OpenTelemetry is not installed: pip install 'django-kafka-outbox[otel]'."
    )


# A tracing library that fails


class BrokenSampler(Sampler):
    def should_sample(self, *arguments: Any, **options: Any) -> SamplingResult:
        raise LookupError("the sampler is broken")

    def get_description(self) -> str:
        return "broken"


class BrokenProcessor(SpanProcessor):
    def on_end(self, span: ReadableSpan) -> None:
        raise LookupError("the processor is broken")


@pytest.mark.usefixtures("remote_trace")
@pytest.mark.parametrize("broken", [BrokenSampler(), BrokenProcessor()])
@pytest.mark.parametrize("steady", [True, False])
def test_a_tracing_library_that_fails_stops_no_message(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: Any, steady: bool
) -> None:
    if isinstance(broken, Sampler):
        Spans(monkeypatch, sampler=broken)
    else:
        Spans(monkeypatch).provider.add_span_processor(broken)
    pipeline = Pipeline(steady=steady)
    pipeline.on("order.created")
    with transaction.atomic():
        messages = publish_many([Event(type="order.created") for _ in range(2)])
    messages.append(send())

    pipeline.turn()

    assert len(pipeline.handled) == 3
    assert [row(message).status for message in messages] == ["consumed"] * 3
    assert "trace" in caplog.text
    assert "is broken" in caplog.text
