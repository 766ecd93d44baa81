"""Logs: each line says which message it is about, none says what it carries, and repeats are summed up."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from threading import Thread
from typing import Any

import pytest
from django.db import transaction

from django_outbox.brokers.base import Record, Refused, SendResult
from django_outbox.events.event import Event
from django_outbox.events.payloads import RawBytes
from django_outbox.exceptions import Reject, Retry
from django_outbox.models import InboxMessage
from django_outbox.observability.logging import SHOWN, Repeats, said
from django_outbox.observability.masking import MASK, MOST_VALUES, without_values
from django_outbox.publishing import publish
from django_outbox.relay.relay import Relay
from django_outbox.state.retry import retry
from tests.support.app.models import Effect
from tests.support.clock import Clock
from tests.support.inbox import Receiver, make_received, plain, received
from tests.support.outbox import Pipeline, ScriptedBroker, make_due, make_message
from tests.support.overrides import outbox_settings

SECRET = "hunter2-\N{SNOWMAN}-s3cret"
PAYLOAD = {"user": {"password": SECRET, "card": 4111222233334444}, "notes": [f"call me {SECRET}"]}
PARTS = (SECRET, "hunter2", "s3cret", "4111222233334444", json.dumps(SECRET)[1:-1])

log = logging.getLogger("django_outbox.tests")


@pytest.fixture
def everything(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """All that the package says, on every level."""
    caplog.set_level(1, "django_outbox")
    return caplog


def whole(caplog: pytest.LogCaptureFixture) -> str:
    """All that was logged, with tracebacks and extras, as a formatter that shows everything would."""
    return "\n".join(f"{logging.Formatter().format(record)} {vars(record)!r}" for record in caplog.records)


# Nothing that a message carries


def quotes(event: Event) -> None:
    raise ValueError(f"no user like {event.payload!r} or {json.dumps(event.payload)}")


def quotes_a_value(event: Event) -> None:
    Effect.objects.create(id=event.payload["user"]["password"])  # the database says what is no number


def rejects(event: Event) -> None:
    raise Reject(f"no card {event.payload['user']['card']}")


def counts(number: int) -> None: ...


def retries(event: Event) -> None:
    raise Retry(reason=f"not now, {event.payload['notes'][0]}")


def chains(event: Event) -> None:
    try:
        {}[event.payload["user"]["password"]]
    except KeyError as error:
        raise RuntimeError("no such user") from error


FAILURES = [quotes, quotes_a_value, rejects, retries, chains]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("handle", FAILURES)
@pytest.mark.parametrize("steady", [False, True], ids=["one by one", "together"])
def test_no_failure_of_a_handler_logs_what_the_message_carries(
    handle: Callable[[Event], None], steady: bool, everything: pytest.LogCaptureFixture
) -> None:
    pipeline = Pipeline(steady=steady)
    pipeline.on("order.created", handle)
    messages = [make_message(payload=PAYLOAD, max_retry=2), make_message(payload=PAYLOAD, max_retry=1)]
    pipeline.turn()
    make_due(*messages)
    pipeline.turn()

    logged = whole(everything)
    assert "order.created" in logged
    assert [part for part in PARTS if part in logged] == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("handle", FAILURES)
@pytest.mark.parametrize("counted", [False, True], ids=["together", "counted"])
def test_no_failure_of_an_event_of_another_service_logs_what_it_carries(
    handle: Callable[[Event], None], counted: bool, everything: pytest.LogCaptureFixture
) -> None:
    receiver = Receiver()
    receiver.on("order.created", handle)
    receiver.receive(received(PAYLOAD), received(PAYLOAD), counted=counted)
    receiver.retry()

    logged = whole(everything)
    assert "order.created" in logged
    assert [part for part in PARTS if part in logged] == []


def quotes_a_part(payload: bytes) -> None:
    raise ValueError(f"invalid card: {payload[6:22].decode()}")


def quotes_hexadecimal(payload: bytes) -> None:
    raise ValueError(payload.hex())


def quotes_a_literal(payload: bytes) -> None:
    try:
        raise LookupError(payload[:30])
    except LookupError as error:
        raise ValueError("not a card") from error


def rejects_a_part(payload: bytes) -> None:
    raise Reject(f"invalid card {payload[6:22].decode()}")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("content_type", ["text/xml", "application/json"])
@pytest.mark.parametrize("quote", [quotes_a_part, quotes_hexadecimal, quotes_a_literal, rejects_a_part])
def test_no_failure_about_bytes_logs_a_part_of_them(
    quote: Callable[[bytes], None], content_type: str, everything: pytest.LogCaptureFixture
) -> None:
    def handle(event: Event) -> None:
        quote(event.payload)

    payload = RawBytes(b'"card: 4111222233334444, 77"', content_type)
    pipeline = Pipeline()
    pipeline.on("order.created", handle)
    with transaction.atomic():
        publish("order.created", payload, max_retry=2)
    pipeline.turn()
    if content_type == "text/xml":  # the inbox reads the others as JSON
        receiver = Receiver()
        receiver.on("order.created", handle)
        (record,) = pipeline.broker.records("outbox")
        headers = {**dict(record.headers), "ce_source": b"warehouse"}
        receiver.receive(replace(record, topic="elsewhere", headers=tuple(headers.items())))
        receiver.retry(1)

    logged = whole(everything)
    kind = "Reject" if quote is rejects_a_part else "ValueError"
    assert f"{kind} (details hidden: the payload is bytes)" in logged
    if kind == "ValueError":
        assert f"in {quote.__name__})" in logged
    for part in ("4111222233334444", payload[:30].hex(), payload[6:22].hex(), repr(bytes(payload[:30]))[2:-1]):
        assert part not in logged


@pytest.mark.django_db(transaction=True)
def test_bytes_that_cannot_be_read_are_logged_with_the_reason_alone(everything: pytest.LogCaptureFixture) -> None:
    def mapper(record: Any) -> Event:
        raise LookupError(f"no card {record.value[:8].decode()}")

    with outbox_settings(INBOX={"mapped": mapper}):
        receiver = Receiver()
        receiver.on("order.created")
        receiver.receive(received(value=b"4111222233334444<"), plain(b"4111222233334444<", topic="mapped"))
        assert [retry(InboxMessage.objects.all(), using="default"), receiver.retry()] == [2, ["dead", "dead"]]

    logged = whole(everything)
    assert "41112222" not in logged
    hidden = "(details hidden: the payload is bytes)"
    assert logged.count(f"failed. {hidden}") >= 2
    assert logged.count("It cannot be read: its value is not JSON that can be read") >= 2


def mapper(record: Any) -> Event:
    raise LookupError(f"no customer {json.loads(record.value)['user']['password']}")


@pytest.mark.django_db(transaction=True)
def test_no_record_that_cannot_be_read_logs_what_it_carries(everything: pytest.LogCaptureFixture) -> None:
    text = json.dumps(PAYLOAD).encode()
    with outbox_settings(INBOX={"mapped": mapper}):
        receiver = Receiver()
        receiver.on("order.created")
        receiver.receive(
            plain(text),
            plain(text, topic="mapped"),
            received(value=text[:-5]),
            received(value=text, specversion="9.9"),
            plain(SECRET.encode()),
            plain(b"\xff" + SECRET.encode()),
        )

    logged = whole(everything)
    assert logged.count("is dead") >= 6
    assert [part for part in PARTS if part in logged] == []


@pytest.mark.django_db(transaction=True)
def test_no_refusal_of_the_broker_logs_what_the_message_carries(everything: pytest.LogCaptureFixture) -> None:
    def answer(records: Any, outcomes: list[SendResult]) -> list[SendResult]:
        return [Refused("too large") for _ in records]

    make_message(payload=PAYLOAD, headers={"password": SECRET})
    Relay(ScriptedBroker(answer), using="default").run_once()

    logged = whole(everything)
    assert "is dead" in logged
    assert [part for part in PARTS if part in logged] == []


def test_what_an_error_says_stays_but_for_the_values() -> None:
    text = 'ValueError: user 4711 is not "active" but "blocked" since 2026-01-01'
    payload = {"id": 4711, "state": "blocked", "active": True, "n": 1, "since": "2026-01-01"}
    assert without_values(text, payload) == f'ValueError: user {MASK} is not "active" but "{MASK}" since {MASK}'


def test_short_values_stay_as_half_of_all_words_would_be_hidden() -> None:
    assert without_values("a b 1 abc", {"x": "a", "y": 1, "z": "abc"}) == "a b 1 abc"


def test_a_payload_that_is_too_large_to_be_looked_for_hides_the_whole_text() -> None:
    payload = list(range(10_000, 10_000 + 2 * MOST_VALUES))
    hidden = "(details hidden: the payload is too large to mask its values)"
    assert without_values("ValueError: 12345 and 99999", payload, "ValueError") == f"ValueError {hidden}"
    assert without_values("12345 and 99999", payload) == hidden


def test_values_are_hidden_however_deep_they_are() -> None:
    """From Python 3.12 on JSON is read ten times as deep as functions may call each other."""
    payload: Any = {"card": "4111222233334444"}
    for _ in range(5000):
        payload = [payload]
    assert without_values("no card 4111222233334444", payload) == f"no card {MASK}"


@pytest.mark.django_db
def test_a_long_error_is_cut() -> None:
    assert len(said(ValueError("x" * 10_000), make_received())) == 2000


# Where it failed


@pytest.mark.django_db(transaction=True)
def test_line_about_a_failure_has_the_place_in_the_project_s_code(everything: pytest.LogCaptureFixture) -> None:
    pipeline = Pipeline()
    pipeline.on("order.created", quotes)
    make_message(payload={"user": "tests/pipeline/observability/test_logs.py", "function": "quotes"})
    pipeline.turn()
    (line,) = (each.getMessage() for each in everything.records if each.levelno == logging.WARNING)
    assert re.search(
        rf' \("tests/pipeline/observability/test_logs\.py", line {quotes.__code__.co_firstlineno + 1}, in quotes\)$',
        line,
    )


@pytest.mark.django_db(transaction=True)
def test_line_about_a_payload_that_does_not_fit_names_the_handler(everything: pytest.LogCaptureFixture) -> None:
    pipeline = Pipeline()
    pipeline.on("order.created", counts)
    make_message()
    pipeline.turn()
    (line,) = (each.getMessage() for each in everything.records if each.levelno == logging.WARNING)
    assert line.endswith("Input should be a valid integer, found dict (tests.pipeline.observability.test_logs.counts)")


# Which message it is


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("handle", [quotes, rejects])
def test_each_line_about_a_message_says_which(
    handle: Callable[[Event], None], everything: pytest.LogCaptureFixture
) -> None:
    pipeline = Pipeline()
    pipeline.on("order.created")
    pipeline.on("order.paid", handle)
    messages = [make_message(), make_message(event_type="order.paid", payload=PAYLOAD, max_retry=1)]
    pipeline.turn()
    pipeline.deliver(messages[0], id=12345)
    pipeline.consumer.run_once()

    by_id = {message.id: message for message in messages}
    about = [record for record in everything.records if "essage" in record.getMessage()]
    assert {record.action for record in about} >= {"consumed", "skipped"}  # type: ignore[attr-defined]
    for record in about:
        told = vars(record)
        assert set(told) >= {"action", "message_id", "event_id", "topic", "attempt"}, record.getMessage()
        if told["message_id"] != 12345:
            message = by_id[told["message_id"]]
            assert (told["event_id"], told["topic"], told["attempt"]) == (str(message.event_id), "outbox", 1)


@pytest.mark.django_db(transaction=True)
def test_each_line_about_a_message_of_the_inbox_says_which(everything: pytest.LogCaptureFixture) -> None:
    receiver = Receiver()
    receiver.on("order.created", quotes)
    receiver.receive(received(PAYLOAD, id="e1"))
    receiver.retry()

    about = [vars(record) for record in everything.records if "Inbox message" in record.getMessage()]
    assert [record["attempt"] for record in about] == [1, 2]
    for record in about:
        assert (record["event_id"], record["topic"], record["group"]) == ("e1", "elsewhere", "tests")
        assert record["message_id"]


FORGED = "2026-01-01 ERROR all is lost"


@pytest.mark.django_db(transaction=True)
def test_no_name_that_others_choose_begins_a_line_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    receiver = Receiver()
    receiver.on("order.created", refuses_the_source)
    receiver.receive(received({}, source=f"evil\n{FORGED}\x1b[31m"))
    (line,) = caplog.messages
    assert f"from evil {FORGED}" in line
    assert line.isprintable()
    assert rf"ValueError: I do not know evil {FORGED}\x1b[31m" in line


def refuses_the_source(event: Event) -> None:
    raise ValueError(f"I do not know {event.source}")


@pytest.mark.django_db
def test_what_is_summed_up_is_one_line(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    repeats = Repeats(clock)
    message = make_received(event_type=f"order\n{FORGED}")
    for _ in range(SHOWN + 1):
        repeats.log_failure(log, logging.WARNING, "failed", message, "odd\x1b", "Message failed")
    repeats.sum_up(now=True)
    assert caplog.messages[-1].isprintable()
    assert f"(order {FORGED})" in caplog.messages[-1]


# Repeats


@pytest.mark.django_db
def test_a_lane_and_the_loop_may_sum_up_at_the_same_time(caplog: pytest.LogCaptureFixture) -> None:
    other = Thread(target=lambda: repeats.sum_up(now=True), daemon=True)

    class Meanwhile(float):
        """A time during whose comparison the other thread begins."""

        def __sub__(self, since: float) -> float:
            if other.ident is None:  # not begun
                other.start()
                other.join(0.1)
            return float(self) - since

    times = iter([0.0] * (2 * SHOWN + 4))
    repeats = Repeats(lambda: next(times, Meanwhile(100.0)))
    for _ in range(SHOWN + 2):
        repeats.log_failure(log, logging.WARNING, "failed", make_received(), "odd", "Message failed")
    repeats.sum_up()
    other.join(10)
    assert not other.is_alive()
    assert [text for text in caplog.messages if "more messages" in text] == caplog.messages[SHOWN:]
    assert len(caplog.messages) == SHOWN + 1


@pytest.mark.django_db
def test_ten_thousand_failures_of_one_kind_are_eleven_lines(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    repeats = Repeats(clock)
    message = make_received()
    for number in range(10_000):
        repeats.log_failure(log, logging.WARNING, "failed", message, ZeroDivisionError(), "Message %s failed", number)
        clock.now += 0.001
    assert caplog.messages == [f"Message {number} failed" for number in range(SHOWN)]

    clock.now += 60
    repeats.sum_up()

    assert caplog.messages[SHOWN:] == [
        f"9990 more messages (order.created) failed within 70 s for the same reason: ZeroDivisionError. "
        f"The last one was {message.id}."
    ]
    assert caplog.records[-1].levelno == logging.WARNING
    assert (caplog.records[-1].action, caplog.records[-1].count) == ("repeated", 9990)  # type: ignore[attr-defined]
    repeats.sum_up(now=True)
    assert len(caplog.messages) == SHOWN + 1


@pytest.mark.django_db
def test_after_a_minute_they_are_told_one_by_one_again(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    repeats = Repeats(clock)
    for _ in range(2):
        for _ in range(SHOWN + 1):
            repeats.log_failure(log, logging.WARNING, "failed", make_received(), "boom", "once more")
        clock.now += 61
    assert caplog.messages.count("once more") == 2 * SHOWN
    assert sum("1 more messages" in text for text in caplog.messages) == 1


@pytest.mark.django_db
def test_another_kind_of_failure_is_told_all_the_same(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    repeats = Repeats(clock)
    kinds = [
        ("failed", make_received(), "boom"),
        ("failed", make_received(), "another error"),
        ("dead", make_received(), "boom"),
        ("failed", make_received(event_type="order.paid"), "boom"),
    ]
    for action, message, error in kinds:
        for _ in range(2 * SHOWN):
            repeats.log_failure(log, logging.WARNING, action, message, error, "once more")
    assert caplog.messages.count("once more") == len(kinds) * SHOWN


@pytest.mark.django_db
def test_a_failure_that_is_the_last_is_not_hidden_by_those_before_it(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    repeats = Repeats(clock)
    for level in (logging.WARNING, logging.ERROR):
        for _ in range(2 * SHOWN):
            repeats.log_failure(log, level, "failed", make_received(), "boom", "once more")
    repeats.sum_up(now=True)
    levels = [logging.WARNING] * SHOWN + [logging.ERROR] * SHOWN + [logging.WARNING, logging.ERROR]
    assert [record.levelno for record in caplog.records] == levels


@pytest.mark.django_db
def test_what_differs_each_time_makes_no_other_kind(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    repeats = Repeats(clock)
    for number in range(100):
        repeats.log_failure(
            log, logging.ERROR, "dead", make_received(), f"no card {number} of 'user{number}'", "once more"
        )
    assert caplog.messages.count("once more") == SHOWN


@pytest.mark.django_db
def test_kinds_without_end_take_no_memory_without_end(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    repeats = Repeats(clock)
    message = make_received()
    for number in range(1500):
        message.event_type = f"type-{number}"
        repeats.log_failure(log, logging.ERROR, "dead", message, "boom", "once more")
    repeats.sum_up(now=True)
    assert "490 more messages are dead within 0 s for the same reason: various causes." in caplog.text


@pytest.mark.django_db
def test_what_is_summed_up_is_still_there_on_the_level_debug(clock: Clock, everything: Any) -> None:
    repeats = Repeats(clock)
    for _ in range(3 * SHOWN):
        repeats.log_failure(log, logging.ERROR, "dead", make_received(), "boom", "once more")
    levels = [record.levelno for record in everything.records]
    assert levels == [logging.ERROR] * SHOWN + [logging.DEBUG] * 2 * SHOWN


@pytest.mark.django_db(transaction=True)
def test_a_consumer_whose_handler_always_fails_sums_it_up_before_it_ends(
    stop: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = Pipeline()
    pipeline.on("order.created", quotes)
    for _ in range(25):
        make_message(payload=PAYLOAD, max_retry=1)
    pipeline.relay.run(stop, drain=True)
    pipeline.consumer.run(stop, drain=True)

    failures = [text for text in caplog.messages if "failed (1 of 1) and is dead" in text]
    assert len(failures) == SHOWN
    assert [text for text in caplog.messages if text.startswith("15 more messages (order.created) failed")]


@pytest.mark.django_db(transaction=True)
def test_a_relay_whose_messages_are_refused_sums_it_up_before_it_ends(
    stop: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(records: list[Record], outcomes: list[SendResult]) -> list[SendResult]:
        return [Refused(f"too large by {number} bytes") for number, _ in enumerate(records)]

    for _ in range(25):
        make_message()
    Relay(ScriptedBroker(answer), using="default").run(stop, drain=True)

    assert sum("is dead, as it can never be sent" in text for text in caplog.messages) == SHOWN
    assert [text for text in caplog.messages if text.startswith("15 more messages (order.created) are dead")]
