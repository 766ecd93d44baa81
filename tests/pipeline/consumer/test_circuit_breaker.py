"""The circuit breaker: a handler that keeps failing is paused, and goes on once a message succeeds."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from django_outbox.consumer.breaker import Breaker
from django_outbox.consumer.engine import TIME_BUDGET_SECONDS
from django_outbox.consumer.pauses import FIRST, REFRESH_SECONDS, Pauses
from django_outbox.exceptions import PauseLocked, Reject, Retry
from django_outbox.handlers.registry import GroupHandlers, Registry
from django_outbox.models import InboxMessage, OutboxMessage, Pause
from django_outbox.models.fields import DatabaseNow
from django_outbox.state import pauses as state
from tests.support.clock import Clock
from tests.support.inbox import Receiver, received
from tests.support.outbox import Pipeline, in_thread, make_due, make_message, row, statuses
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db

PAUSE_SECONDS = 60
MAIL = f"{__name__}.Mail.handle"


class Order(BaseModel):
    id: int


class Mail:
    """A handler that fails while its server is down."""

    def __init__(self) -> None:
        self.error: Exception | None = ConnectionError("refused")
        self.sent: list[Any] = []
        self.tries = 0

    def handle(self, event: Any) -> None:
        self.tries += 1
        if self.error is not None:
            raise self.error
        self.sent.append(event.payload)


@pytest.fixture(autouse=True)
def breaker() -> Iterator[None]:
    with outbox_settings(CIRCUIT_BREAKER={"FAILURES": 3, "PAUSE": PAUSE_SECONDS}):
        yield


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def mail() -> Mail:
    return Mail()


@pytest.fixture(params=["counted", "steady"])
def pipeline(request: pytest.FixtureRequest, clock: Clock, mail: Mail) -> Pipeline:
    pipeline = Pipeline(steady=request.param == "steady", clock=clock)
    pipeline.on("mail.queued", mail.handle)
    pipeline.on("order.created")
    return pipeline


def send(number: int, **fields: Any) -> list[OutboxMessage]:
    return [make_message(event_type="mail.queued", payload=n, **fields) for n in range(number)]


def handle_each_once(pipeline: Pipeline) -> None:
    """Handle what is pending. Retries that are due meanwhile, on a busy machine, are not sent."""
    pipeline.relay.run_once()
    while pipeline.consumer.run_once().received:
        pass


def end_of_pause(clock: Clock) -> None:
    """Let the pause be over, and its messages be due."""
    Pause.objects.filter(until__isnull=False).update(until=DatabaseNow())
    for message in OutboxMessage.objects.filter(status="pending"):
        make_due(message)
    clock.now += REFRESH_SECONDS


def test_handler_is_paused_after_failures_in_a_row(pipeline: Pipeline, mail: Mail) -> None:
    messages = send(8)
    other = make_message()
    pipeline.run()
    pause = Pause.objects.get()
    assert [row(message).retry_count for message in messages] == [1] * 3 + [0] * 5
    assert pause.handler == f"{__name__}.Mail.handle"
    assert (pause.group, pause.created_by) == ("tests", "circuit breaker")
    assert pause.reason.startswith("failed 3 times in a row: ConnectionError in tests.pipeline")
    assert pause.until is not None
    assert round((pause.until - pause.created_at).total_seconds()) == PAUSE_SECONDS
    assert row(other).status == "consumed"


def test_without_the_setting_nothing_is_paused(pipeline: Pipeline, mail: Mail) -> None:
    with outbox_settings(CIRCUIT_BREAKER=None):
        messages = send(8)
        handle_each_once(pipeline)
    assert not Pause.objects.exists()
    assert [row(message).retry_count for message in messages] == [1] * 8


def test_success_and_other_errors_begin_the_count_again(clock: Clock) -> None:
    errors: list[Exception | None] = [
        ValueError(),
        ValueError(),
        None,
        ValueError(),
        ValueError(),
        KeyError(),
        KeyError(),
    ]
    pipeline = Pipeline(clock=clock)

    def handle(event: Any) -> None:
        error = errors[event.payload]
        if error is not None:
            raise error

    pipeline.on("mail.queued", handle)
    send(len(errors))
    handle_each_once(pipeline)
    assert not Pause.objects.exists()


def test_lanes_count_together(mail: Mail) -> None:
    lanes, failures = 4, 500
    registry = Registry()
    registry.register("mail.queued", mail.handle)
    handlers = GroupHandlers(registry, "tests")
    breaker = Breaker("default", "tests", Pauses("default", handlers, Clock()))

    def fail(times: int) -> None:
        for _ in range(times):
            breaker.failed(handlers.find("mail.queued", "outbox"), ConnectionError("refused"))

    with outbox_settings(CIRCUIT_BREAKER={"FAILURES": lanes * failures + 1, "PAUSE": PAUSE_SECONDS}):
        with switching_often(), ExitStack() as stack:
            for _ in range(lanes):
                stack.enter_context(in_thread(lambda: fail(failures)))
        assert not Pause.objects.exists()
        fail(1)
    assert Pause.objects.exists()


def test_lanes_together_let_few_messages_wait_for_the_end() -> None:
    trials, lanes = 50, 4
    for number in range(trials):
        until = DatabaseNow() + timedelta(hours=1, seconds=number)
        Pause.objects.create(group="tests", event_type=f"mail.{number}", until=until)
    pauses = Pauses("default", GroupHandlers(Registry(), "tests"), Clock())
    pauses.refresh()
    ends = {active.event_type: active.until for active in state.active(Pause.objects.using("default"))}
    due: list[tuple[str, Any]] = []

    def postpone() -> None:
        for event_type in ends:
            due.extend([(event_type, pauses.due_at(event_type, "outbox")) for _ in range(FIRST)])

    with switching_often(), ExitStack() as stack:
        for _ in range(lanes):
            stack.enter_context(in_thread(postpone))
    assert len(due) == trials * lanes * FIRST
    assert {event_type: due.count((event_type, end)) for event_type, end in ends.items()} == dict.fromkeys(ends, FIRST)


@contextmanager
def switching_often() -> Iterator[None]:
    """Let threads take turns after every few instructions."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def test_rejected_messages_pause_nothing(pipeline: Pipeline, mail: Mail) -> None:
    mail.error = Reject("no such address")
    send(8)
    pipeline.run()
    assert statuses() == ["dead"] * 8
    assert not Pause.objects.exists()


def test_of_several_handlers_the_failing_one_is_paused(pipeline: Pipeline, mail: Mail) -> None:
    def before(event: Any) -> None: ...

    pipeline.on("order.created", mail.handle)
    pipeline.on("order.created", before)
    for _ in range(5):
        make_message()
    pipeline.run()
    assert Pause.objects.get().handler == f"{__name__}.Mail.handle"


def test_handler_with_an_invalid_payload_is_paused_and_not_another_one(clock: Clock) -> None:
    def before(event: Any) -> None: ...

    def ship(order: Order) -> None: ...

    pipeline = Pipeline(clock=clock)
    pipeline.on("order.created", before)
    pipeline.on("order.created", ship)
    for _ in range(3):
        make_message(payload={"id": "x"})
    pipeline.run()
    assert Pause.objects.get().handler.endswith(".ship")


def test_failures_that_a_batch_handler_names_are_counted(clock: Clock) -> None:
    def handle(events: list[Any]) -> None:
        raise Retry(3600, "refused", events=events)

    pipeline = Pipeline(steady=True, clock=clock)
    pipeline.on("mail.queued", handle, batch=10)
    send(3)
    pipeline.run()
    assert Pause.objects.get().handler.endswith(".handle")


def test_handler_may_be_a_callable_without_a_hash(clock: Clock) -> None:
    class Ship:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, event: Any) -> None: ...

    pipeline = Pipeline(clock=clock)
    pipeline.on("order.created", Ship())
    make_message()
    assert pipeline.turn().consumed == 1


def test_success_of_the_message_that_is_tried_resumes_the_others(pipeline: Pipeline, mail: Mail, clock: Clock) -> None:
    send(30)
    pipeline.run()
    assert mail.sent == []
    mail.error = None
    end_of_pause(clock)
    pipeline.run()
    clock.now += REFRESH_SECONDS
    pipeline.run()
    assert not Pause.objects.exists()
    assert sorted(mail.sent) == list(range(30))
    assert statuses() == ["consumed"] * 30


@pytest.mark.parametrize("is_restarted", [False, True])
def test_failure_of_the_message_that_is_tried_pauses_again(
    pipeline: Pipeline, mail: Mail, clock: Clock, is_restarted: bool
) -> None:
    messages = send(8)
    pipeline.run()
    tries, failures = mail.tries, sum(row(message).retry_count for message in messages)
    end_of_pause(clock)
    if is_restarted:  # this consumer has counted no failures
        pipeline.restart_consumer()
    pipeline.run()
    assert mail.tries - tries in (1, 2)  # again alone, if it was in a batch
    assert sum(row(message).retry_count for message in messages) == failures + 1
    (active,) = state.active(Pause.objects.using("default"))
    assert active.until is not None
    assert active.until - active.now > timedelta(seconds=PAUSE_SECONDS / 2)
    assert {row(message).status for message in messages} == {"pending"}


def test_one_consumer_tries_a_message_at_a_time() -> None:
    state.trip("tests", "ship", timedelta(0), "failed", using="default")
    (active,) = state.active(Pause.objects.using("default"))
    assert state.try_one([active], timedelta(minutes=1), using="default") is not None
    assert state.try_one([active], timedelta(minutes=1), using="default") is None


def test_no_pause_is_tried_by_a_message_that_waits_for_another_pause() -> None:
    for name in ("ship", "bill"):
        state.trip("tests", name, timedelta(0), "failed", using="default")
    ship, bill = state.active(Pause.objects.using("default"))
    assert state.try_one([bill], timedelta(minutes=1), using="default") is not None
    assert state.try_one([ship, bill], timedelta(minutes=1), using="default") is None
    assert state.try_one([ship], timedelta(minutes=1), using="default") is not None


def test_message_of_a_trial_that_was_killed_is_followed_by_another(
    pipeline: Pipeline, mail: Mail, clock: Clock
) -> None:
    send(8)
    pipeline.run()
    end_of_pause(clock)
    (active,) = state.active(Pause.objects.using("default"))
    state.try_one([active], timedelta(minutes=1), using="default")  # and its process is killed
    mail.error = None
    pipeline.run()
    assert mail.sent == []
    end_of_pause(clock)
    pipeline.run()
    clock.now += REFRESH_SECONDS
    pipeline.run()
    assert sorted(mail.sent) == list(range(8))


def test_message_that_an_operator_has_paused_is_not_the_one_that_is_tried(pipeline: Pipeline, mail: Mail) -> None:
    mail.error = None
    pipeline.on("order.created", mail.handle)
    state.trip("tests", MAIL, timedelta(0), "failed", using="default")
    state.pause("tests", event_type="order.created", reason="a bug", by="ada", using="default")
    paused = make_message()
    send(1)
    pipeline.run()
    assert mail.sent == [0]
    assert row(paused).status == "pending"
    assert Pause.objects.get().created_by == "ada"


def test_message_for_which_there_was_no_time_is_tried_next(clock: Clock, mail: Mail) -> None:
    mail.error = None
    pipeline = Pipeline(steady=True, clock=clock)
    pipeline.on("order.created", slow(clock))
    pipeline.on("mail.queued", mail.handle)
    state.trip("tests", MAIL, timedelta(0), "failed", using="default")
    make_message()
    send(1)
    pipeline.turn()
    assert mail.sent == [0]
    assert not Pause.objects.exists()


def test_record_for_which_there_was_no_time_is_tried_next(clock: Clock, mail: Mail) -> None:
    mail.error = None
    receiver = Receiver(clock=clock)
    receiver.on("order.created", slow(clock))
    receiver.on("mail.queued", mail.handle)
    state.trip("tests", MAIL, timedelta(0), "failed", using="default")
    assert receiver.receive(received(1), received(2, type="mail.queued")) == ["consumed", "consumed"]
    assert mail.sent == [2]


def slow(clock: Clock) -> Callable[[Any], None]:
    """A handler that takes the time of the messages after it."""

    def handle(event: Any) -> None:
        clock.now += TIME_BUDGET_SECONDS

    return handle


@pytest.mark.databases("postgresql", "mariadb", "mysql")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("action", ["pause", "resume"])
def test_operators_do_not_wait_for_the_handler_of_the_message_that_is_tried(action: str, clock: Clock) -> None:
    errors: list[PauseLocked] = []

    def act() -> None:
        try:
            if action == "pause":
                state.pause("tests", handler=name, reason="a bug", by="ada", using="default")
            else:
                state.resume(Pause.objects.all(), using="default")
        except PauseLocked as error:
            errors.append(error)

    def handle(event: Any) -> None:
        with in_thread(act):
            pass

    pipeline = Pipeline(clock=clock)
    pipeline.on("mail.queued", handle)
    (name,) = [handler.name for handler in pipeline.handlers.for_group("tests")]
    state.trip("tests", name, timedelta(0), "failed", using="default")
    send(1)
    pipeline.run()
    assert len(errors) == 1
    assert statuses() == ["consumed"]
    assert not Pause.objects.exists()


def test_few_messages_wait_for_the_end_and_those_that_failed_come_last(
    pipeline: Pipeline, mail: Mail, clock: Clock
) -> None:
    messages = send(40)
    pipeline.run()
    failed = [message for message in messages if row(message).retry_count]
    make_due(*failed)
    pipeline.run()
    (active,) = state.active(Pause.objects.using("default"))
    assert active.until is not None
    due = [row(message).next_retry_at for message in messages]
    assert due.count(active.until + state.AFTER_OTHERS) == len(failed)
    assert due.count(active.until) == FIRST
    assert sum(each in active.check_times(active.now) for each in due) == 40 - FIRST - len(failed)
    assert state.resume(Pause.objects.all(), using="default") == (1, 40)


def test_bad_message_does_not_keep_the_others_from_being_tried(clock: Clock) -> None:
    pipeline = Pipeline(clock=clock)
    sent: list[int] = []

    def handle(event: Any) -> None:
        if event.payload == 0:
            raise ValueError
        sent.append(event.payload)

    pipeline.on("mail.queued", handle)
    (bad,) = send(1)
    for _ in range(3):
        make_due(bad)
        pipeline.run()
    assert Pause.objects.exists()
    clock.now += REFRESH_SECONDS
    make_due(bad)
    make_message(event_type="mail.queued", payload=1)
    pipeline.run()
    (good,) = OutboxMessage.objects.exclude(id=bad.id)
    assert good.next_retry_at is not None
    assert good.next_retry_at < row(bad).next_retry_at  # type: ignore[operator]


def test_operators_pause_stays(pipeline: Pipeline, mail: Mail) -> None:
    name = f"{__name__}.Mail.handle"
    state.pause("tests", handler=name, reason="a bug", by="ada", using="default")
    assert not state.trip("tests", name, timedelta(minutes=1), "failed", using="default")
    pause = Pause.objects.get()
    assert (pause.created_by, pause.until) == ("ada", None)


def test_operator_may_take_over_the_pause_with_its_messages(pipeline: Pipeline, mail: Mail, clock: Clock) -> None:
    messages = send(8)
    pipeline.run()
    make_due(*messages)
    pipeline.run()
    state.pause("tests", handler=MAIL, reason="until tomorrow", by="ada", using="default")
    assert Pause.objects.get().until is None
    clock.now += REFRESH_SECONDS
    pipeline.run()
    (active,) = state.active(Pause.objects.using("default"))
    assert state.waiting(active, active.now, using="default")["outbox"].count() == 8
    assert state.resume(Pause.objects.all(), using="default") == (1, 8)


def test_pause_is_logged_once(pipeline: Pipeline, mail: Mail, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "django_outbox.consumer")
    send(8)
    pipeline.run()
    end_of_pause(clock)
    pipeline.run()
    mail.error = None
    end_of_pause(clock)
    pipeline.run()
    found = [r for r in caplog.records if getattr(r, "action", "") in ("paused", "resumed")]
    assert [(record.levelname, record.action) for record in found] == [("ERROR", "paused"), ("INFO", "resumed")]  # type: ignore[attr-defined]
    assert (
        found[0]
        .getMessage()
        .startswith(
            f"The handler {__name__}.Mail.handle is paused for 60 s (CIRCUIT_BREAKER), as it failed 3 times in a row: "
        )
    )


def test_handlers_of_the_inbox_are_paused_and_resumed(clock: Clock, mail: Mail) -> None:
    receiver = Receiver(clock=clock)
    receiver.on("mail.queued", mail.handle)
    for n in range(6):
        receiver.receive(received(n, type="mail.queued"))
    assert Pause.objects.get().created_by == "circuit breaker"
    assert list(InboxMessage.objects.order_by("id").values_list("retry_count", flat=True)) == [1, 1, 1, 0, 0, 0]
    mail.error = None
    Pause.objects.update(until=DatabaseNow())
    clock.now += REFRESH_SECONDS
    receiver.retry()
    assert not Pause.objects.exists()
    clock.now += REFRESH_SECONDS
    receiver.retry()
    assert sorted(mail.sent) == list(range(6))
