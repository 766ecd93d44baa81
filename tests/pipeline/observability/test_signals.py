"""Signals: what became of a message is told after the commit, to whoever listens, and harms nobody."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from django.db import DatabaseError, connection
from django.dispatch import Signal

from django_outbox import signals
from django_outbox.brokers.base import Failed, Record, Refused, SendResult
from django_outbox.conf import settings as outbox
from django_outbox.events.event import Event
from django_outbox.exceptions import Reject
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.observability import instrumentation
from django_outbox.observability.metrics import Metrics
from django_outbox.relay.relay import Relay
from django_outbox.state import outbox as state
from django_outbox.state import transitions
from tests.support.inbox import Receiver, make_received, only, plain, received
from tests.support.outbox import Pipeline, ScriptedBroker, Status, make_message, row, statuses
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db(transaction=True)

SIGNALS = {
    "published": signals.message_published,
    "consumed": signals.message_consumed,
    "failed": signals.message_failed,
    "dead": signals.message_dead,
}


class Listener:
    """Keeps what each signal brought, and in which state the row was then."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, signal: Signal, sender: Any, **arguments: Any) -> None:
        name = next(name for name, each in SIGNALS.items() if each is signal)
        if connection.in_atomic_block:
            name = f"{name} before the commit"
        status = sender.objects.using(arguments["using"]).get(id=arguments["message_id"]).status
        self.told.append((name, {"sender": sender, "status": status, **arguments}))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.told]

    def only(self, name: str) -> dict[str, Any]:
        (arguments,) = (arguments for told, arguments in self.told if told == name)
        return arguments


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    for each in SIGNALS.values():
        each.connect(listener)
    yield listener
    for each in SIGNALS.values():
        each.disconnect(listener)


@pytest.fixture(params=["one by one", "together"])
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    """A consumer that handles messages by themselves, or on the fast path."""
    return Pipeline(steady=request.param == "together")


def fields(message: OutboxMessage, attempt: int = 1) -> dict[str, Any]:
    return {
        "sender": OutboxMessage,
        "message_id": message.id,
        "event_id": str(message.event_id),
        "event_type": message.event_type,
        "topic": "outbox",
        "key": message.message_key,
        "attempt": attempt,
        "using": "default",
    }


def refusing(outcome: SendResult) -> ScriptedBroker:
    def answer(records: Sequence[Record], outcomes: list[SendResult]) -> list[SendResult]:
        return [outcome, *outcomes[1:]]

    return ScriptedBroker(answer)


def boom(event: Event) -> None:
    raise ArithmeticError("boom")


# Relay


def test_what_the_broker_took_is_told_with_its_place_after_the_commit(pipeline: Pipeline, listener: Listener) -> None:
    messages = [make_message(message_key=key) for key in ("a", "b")]

    pipeline.relay.run_once()

    assert listener.told == [
        ("published", {**fields(message), "status": "published", "partition": 0, "offset": offset})
        for offset, message in enumerate(messages)
    ]


def test_what_can_never_be_sent_is_told_as_dead(listener: Listener) -> None:
    refused, taken = make_message(), make_message()

    Relay(refusing(Refused("too large")), using="default").run_once()

    assert listener.only("dead") == {**fields(refused), "status": "dead", "error": "too large"}
    assert listener.only("published")["message_id"] == taken.id


@pytest.mark.parametrize(("max_retry", "final", "told"), [(5, False, ["failed"]), (1, True, ["failed", "dead"])])
def test_what_could_not_be_sent_is_told_as_failed_and_at_the_last_as_dead(
    max_retry: int, final: bool, told: list[str], listener: Listener
) -> None:
    message = make_message(max_retry=max_retry)

    Relay(refusing(Failed("no room")), using="default").run_once()

    assert listener.names == told
    status = "dead" if final else "pending"
    assert listener.only("failed") == {**fields(message), "status": status, "error": "no room", "final": final}


def test_nothing_is_told_of_what_was_rolled_back(
    pipeline: Pipeline, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> int:
        raise DatabaseError("full")

    make_message()
    monkeypatch.setattr(state, "mark_published", refuse)

    with pytest.raises(DatabaseError):
        pipeline.relay.run_once()

    assert statuses() == [Status.PENDING]
    assert listener.told == []


# Consumer


def test_what_was_handled_is_told_once_after_the_commit(pipeline: Pipeline, listener: Listener) -> None:
    pipeline.on("order.created")
    messages = [make_message() for _ in range(3)]

    pipeline.run()

    consumed = [arguments for name, arguments in listener.told if name == "consumed"]
    assert consumed == [{**fields(message), "status": "consumed", "group": "tests"} for message in messages]


@pytest.mark.parametrize(("max_retry", "final", "told"), [(5, False, ["failed"]), (1, True, ["failed", "dead"])])
def test_a_failure_is_told_with_its_error_and_at_the_last_as_dead(
    max_retry: int, final: bool, told: list[str], pipeline: Pipeline, listener: Listener
) -> None:
    pipeline.on("order.created")
    pipeline.on("order.paid", boom)
    make_message()
    message = make_message(event_type="order.paid", max_retry=max_retry)

    pipeline.turn()

    assert [name for name in listener.names if name not in ("published", "consumed")] == told
    failed = listener.only("failed")
    assert isinstance(failed.pop("error"), ArithmeticError)
    assert failed == {**fields(message), "status": "dead" if final else "pending", "final": final}


def test_a_rejection_is_told_as_dead_and_not_as_failed(pipeline: Pipeline, listener: Listener) -> None:
    def reject(event: Event) -> None:
        raise Reject("never")

    pipeline.on("order.created", reject)
    messages = [make_message(), make_message()]

    pipeline.turn()

    assert listener.names == ["published", "published", "dead", "dead"]
    assert [arguments["message_id"] for name, arguments in listener.told if name == "dead"] == [m.id for m in messages]


def test_one_that_took_its_process_down_again_and_again_is_told_as_dead(pipeline: Pipeline, listener: Listener) -> None:
    pipeline.on("order.created")
    make_message(delivery_count=outbox.max_deliveries + 1)

    pipeline.turn()

    dead = listener.only("dead")
    assert dead["status"] == "dead"
    assert dead["error"].startswith("It took its process down 5 times (MAX_DELIVERIES)")


def test_one_that_nobody_handles_is_told_as_dead_where_it_becomes_so(pipeline: Pipeline, listener: Listener) -> None:
    make_message(event_type="order.unheard")
    with outbox_settings(UNKNOWN_EVENT="dead"):
        pipeline.turn()

    assert listener.only("dead")["error"] == "No handler is registered for 'order.unheard' (UNKNOWN_EVENT is 'dead')."


def test_nothing_is_told_of_a_copy(pipeline: Pipeline, listener: Listener) -> None:
    pipeline.on("order.created")
    message = make_message()
    pipeline.run()
    listener.told.clear()

    pipeline.deliver(message, publish_count=0)
    pipeline.deliver(message, publish_count=0)
    pipeline.consumer.run_once()

    assert listener.told == []


def test_a_failure_that_was_not_counted_is_not_told(
    pipeline: Pipeline, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = transitions.mark_failed

    def too_late(*args: Any, **options: Any) -> Any:
        transitions.mark_dead(state.in_delivery(message.id, 1, using="default"), "another consumer was faster")
        return count(*args, **options)

    monkeypatch.setattr(transitions, "mark_failed", too_late)
    pipeline.on("order.created", boom)
    message = make_message()
    pipeline.turn()

    assert row(message).last_error == "another consumer was faster"
    assert listener.names == ["published"]


# Inbox


@pytest.fixture(params=[False, True], ids=["together", "with care"])
def counted(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_events_of_other_services_are_told_as_consumed(counted: bool, listener: Listener) -> None:
    receiver = Receiver()
    receiver.on("order.created")

    receiver.receive(received(1, key="k", id="e1"), counted=counted)

    assert listener.told == [
        (
            "consumed",
            {
                "sender": InboxMessage,
                "status": "consumed",
                "message_id": only().id,
                "event_id": "e1",
                "event_type": "order.created",
                "topic": "elsewhere",
                "key": "k",
                "attempt": 1,
                "using": "default",
                "group": "tests",
            },
        )
    ]


def test_their_failures_are_told_with_the_number_of_the_try(counted: bool, listener: Listener) -> None:
    receiver = Receiver()
    receiver.on("order.created", boom)
    with outbox_settings(MAX_RETRY=2):
        receiver.receive(received(1), counted=counted)
        receiver.retry()

    assert [(name, a["attempt"], a["status"]) for name, a in listener.told] == [
        ("failed", 1, "pending"),
        ("failed", 2, "dead"),
        ("dead", 2, "dead"),
    ]


def test_their_rejections_and_what_cannot_be_read_are_told_as_dead(listener: Listener) -> None:
    def reject(event: Event) -> None:
        raise Reject("never")

    receiver = Receiver()
    receiver.on("order.created", reject)
    receiver.receive(received(1))
    receiver.receive(plain(b"nonsense"))
    make_received(delivery_count=outbox.max_deliveries)
    receiver.retry()

    assert listener.names == ["dead", "dead", "dead"]
    errors = [str(arguments["error"]) for _, arguments in listener.told]
    assert errors[0] == "never"
    assert errors[1].startswith("It cannot be read: it is not a CloudEvent")
    assert errors[2].startswith("It took its process down")


def test_nothing_is_told_of_a_copy_of_theirs(listener: Listener) -> None:
    receiver = Receiver()
    receiver.on("order.created")
    record = received(1)
    receiver.receive(record)
    listener.told.clear()

    receiver.receive(record)

    assert listener.told == []


# Harmless


def raises(**arguments: Any) -> None:
    raise RuntimeError("a bad receiver")


class Raises:
    """A receiver without a name, over which Django's own handling stumbles."""

    def __call__(self, **arguments: Any) -> None:
        raises()


@pytest.mark.parametrize("receiver", [raises, Raises()], ids=["function", "object"])
def test_a_receiver_that_raises_is_logged_and_harms_nothing(
    receiver: Any, pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline.on("order.created")
    for _ in range(3):
        make_message()
    for each in SIGNALS.values():
        each.connect(receiver)
    try:
        pipeline.run()
    finally:
        for each in SIGNALS.values():
            each.disconnect(receiver)

    assert statuses() == [Status.CONSUMED] * 3
    assert len(pipeline.handled) == 3, "nothing was handled twice"
    assert "a bad receiver" in caplog.text


def test_an_observer_that_raises_is_logged_and_harms_nothing(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Metrics):
        def published(self, *args: Any) -> None:
            raise RuntimeError("a bad metric")

        consumed = published  # type: ignore[assignment]

    pipeline.on("order.created")
    make_message()
    make_message()
    with instrumentation.observed_by(Broken()):
        pipeline.run()

    assert statuses() == [Status.CONSUMED] * 2
    assert len(pipeline.handled) == 2
    assert "An observer failed; its metric was not counted." in caplog.text


def test_where_nobody_listens_nothing_is_made_of_the_messages(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("made for nobody")

    monkeypatch.setattr(instrumentation, "_send", never)
    monkeypatch.setattr(instrumentation, "_notify", never)
    pipeline.on("order.created")
    make_message()
    pipeline.run()
    assert statuses() == [Status.CONSUMED]
