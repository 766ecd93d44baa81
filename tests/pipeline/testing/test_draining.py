"""drain(): relay and consumers run in the test's process, retries included, until nothing is left to do."""

from __future__ import annotations

import re
import traceback
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, OperationalError, transaction

from django_outbox import Event, RawBytes, Reject, Retry, publish, publish_many, signals
from django_outbox.handlers.registry import Registry
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.state import pauses
from django_outbox.testing import drain
from tests.support.app.models import Effect
from tests.support.effects import effect_of_payload, effect_of_type, effects, effects_of_payloads, fails
from tests.support.outbox import statuses
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db


def order(payload: Any = 1, **options: Any) -> OutboxMessage:
    with transaction.atomic():
        return publish("order.created", payload, **options)


# What it does


def test_messages_are_sent_and_handled_and_counted(handlers: Registry) -> None:
    handlers.register("order.created", effect_of_payload)
    for number in range(3):
        order(number)

    result = drain()

    assert effects() == ["0", "1", "2"]
    assert statuses() == ["consumed"] * 3
    assert (result.published, result.consumed, result.failed) == (3, 3, 0)
    assert (result.dead, result.waiting) == ((), ())


def test_no_broker_needs_to_be_configured(handlers: Registry) -> None:
    handlers.register("order.created", effect_of_payload)
    with outbox_settings(without=["BROKER"]):
        order()
        drain()
    assert effects() == ["1"]


def test_messages_that_handlers_publish_are_handled_too(handlers: Registry) -> None:
    handlers.register("order.created", lambda event: publish("order.shipped", 2))
    handlers.register("order.shipped", effect_of_type)
    order()
    assert drain().consumed == 2
    assert effects() == ["order.shipped"]


def test_nothing_of_one_drain_is_left_in_the_next(handlers: Registry) -> None:
    handlers.register("order.created", effect_of_payload)
    order(1)
    drain()
    order(2)
    result = drain()
    assert (effects(), result.published, result.consumed) == (["1", "2"], 1, 1)


def test_handlers_of_all_groups_run(handlers: Registry) -> None:
    handlers.register("order.created", effect_of_payload)
    handlers.register("order.created", effect_of_type, group="reports")
    order()
    assert drain().consumed == 2
    assert sorted(effects()) == ["1", "order.created"]
    assert InboxMessage.objects.get().group == "reports"


def test_a_message_without_a_handler_is_sent_and_nothing_waits_for_it(handlers: Registry) -> None:
    order()
    result = drain()
    assert (result.published, result.consumed, result.waiting) == (1, 0, ())
    assert statuses() == ["published"]


def test_a_batch_handler_gets_full_lists_and_one_that_is_not_full(handlers: Registry) -> None:
    sizes: list[int] = []
    handlers.register("order.created", lambda events: sizes.append(len(events)), batch=20, wait=3600)
    for number in range(50):
        order(number)
    drain()
    assert sum(sizes) == 50
    assert 20 in sizes


def test_one_lane_works_in_this_thread_and_sees_the_transaction_of_the_test(handlers: Registry) -> None:
    handlers.register("order.created", effect_of_payload)
    with outbox_settings(CONCURRENCY=8):
        order()
        drain()
    assert effects() == ["1"]


def test_a_time_limit_of_handlers_does_not_end_the_process_of_the_tests(handlers: Registry) -> None:
    from django_outbox.conf import settings

    limits: list[float | None] = []
    handlers.register("order.created", lambda event: limits.append(settings.handler_timeout))
    with outbox_settings(HANDLER_TIMEOUT=1):
        order()
        drain()
    assert limits == [None]


# Retries, by moving time


def test_a_failed_message_is_retried_until_it_is_handled(handlers: Registry) -> None:
    def fails_twice(event: Event) -> None:
        effect_of_payload(event)
        if event.attempt < 3:
            raise ArithmeticError("boom")

    handlers.register("order.created", fails_twice)
    order()

    result = drain()

    assert (result.consumed, result.failed, result.published) == (1, 2, 3)
    assert (statuses(), effects()) == (["consumed"], ["1"])


def test_later_messages_of_its_key_are_handled_after_a_failed_one(handlers: Registry) -> None:
    def fails_first(event: Event) -> None:
        effect_of_payload(event)
        if event.payload == 1 and event.attempt < 8:  # waits longer than a message may wait in the consumer
            raise ArithmeticError("boom")

    handlers.register("order.created", fails_first)
    for number in (1, 2, 3):
        order(number, key="7")
    order(4, key="8")
    result = drain()
    assert [each for each in effects() if each != "4"] == ["1", "2", "3"]
    assert (result.failed, result.waiting) == (7, ())


def test_a_delay_and_the_delay_of_a_retry_take_no_time(handlers: Registry) -> None:
    def retries(event: Event) -> None:
        effect_of_payload(event)
        if event.attempt == 1:
            raise Retry(delay=timedelta(days=300))

    handlers.register("order.created", retries)
    order(delay=timedelta(days=2))
    assert drain().consumed == 1
    assert effects() == ["1"]


def test_messages_are_handled_in_the_order_of_their_due_times(handlers: Registry) -> None:
    handlers.register("order.created", effect_of_payload)
    order("later", delay=7200)
    order("sooner", delay=3600)
    order("now")
    drain()
    assert effects() == ["now", "sooner", "later"]


def test_time_moves_no_further_than_allowed_and_the_result_says_what_waits(handlers: Registry) -> None:
    handlers.register("order.created", effect_of_payload)
    later = order(delay=3600)

    result = drain(max_wait=timedelta(minutes=30))

    assert effects() == []
    (waiting,) = result.waiting
    assert waiting.message == later
    assert re.fullmatch(r"due in (1:00:00|0:\d\d:\d\d)", waiting.reason)
    assert drain(max_wait=3601).waiting == ()
    assert effects() == ["1"]


def test_without_moving_time_a_failed_message_waits_with_its_reason(handlers: Registry) -> None:
    def retries(event: Event) -> None:
        raise Retry(delay=3600, reason="out of stock")

    handlers.register("order.created", retries)
    order()
    result = drain(max_wait=0)
    assert (result.failed, result.dead) == (1, ())
    assert result.waiting[0].reason.endswith(", after out of stock")


def test_the_inbox_is_retried_as_well(handlers: Registry) -> None:
    def fails_twice(event: Event) -> None:
        if event.attempt < 3:
            raise ArithmeticError("boom")
        effect_of_payload(event)

    handlers.register("order.created", fails_twice, group="reports")
    order()
    result = drain()
    assert (result.consumed, result.failed) == (1, 2)
    assert effects() == ["1"]


# Failures


def test_a_message_that_fails_for_ever_is_dead_and_its_error_is_raised(handlers: Registry) -> None:
    handlers.register("order.created", fails)
    message = order(max_retry=3)

    with pytest.raises(ArithmeticError, match="boom") as caught:
        drain()

    shown = "".join(traceback.format_exception(caught.value))
    assert "tests/support/effects.py" in shown
    assert f"Message {message.id} (order.created), handled by {fails.__module__}.fails," in shown
    assert "is dead after attempt 3." in shown
    assert (statuses(), effects()) == (["dead"], [])


def test_everything_else_is_done_before_the_error_is_raised(handlers: Registry) -> None:
    handlers.register("order.created", fails)
    handlers.register("order.paid", effect_of_payload)
    order(max_retry=2)
    with transaction.atomic():
        publish("order.paid", 2, delay=3600)
    with pytest.raises(ArithmeticError):
        drain()
    assert (statuses(), effects()) == (["dead", "consumed"], ["2"])


def test_dead_messages_are_in_the_result_if_errors_are_not_to_be_raised(handlers: Registry) -> None:
    def rejects(event: Event) -> None:
        raise Reject("we do not ship there")

    handlers.register("order.created", rejects)
    handlers.register("order.created", fails, group="reports")
    message = order()
    result = drain(raise_errors=False)
    assert len(result.dead) == 2
    assert result.dead[0] == message
    assert result.dead[0].last_error.splitlines()[0].endswith("we do not ship there")
    assert isinstance(result.dead[1], InboxMessage)
    assert result.failed == 20


def test_a_rejection_is_raised(handlers: Registry) -> None:
    def rejects(event: Event) -> None:
        raise Reject("we do not ship there")

    handlers.register("order.created", rejects)
    order()
    with pytest.raises(Reject, match="we do not ship there"):
        drain()


def test_a_message_that_cannot_be_sent_fails_the_test_with_the_reason(handlers: Registry) -> None:
    with outbox_settings(MAX_PAYLOAD_BYTES=10**7):
        message = order(RawBytes(b"x" * 1_500_000))
    with pytest.raises(AssertionError, match=rf"Message {message.id} \(order.created\) is dead: .*bytes"):
        drain()


def test_errors_of_the_database_are_rolled_back_with_their_message_only(handlers: Registry) -> None:
    def duplicates(event: Event) -> None:
        effect_of_payload(event)
        if event.payload == 2:
            Effect.objects.create(id=Effect.objects.latest("id").id)

    handlers.register("order.created", duplicates)
    order(1, max_retry=2)
    order(2, max_retry=2)
    with pytest.raises(IntegrityError):
        drain()
    assert (statuses(), effects()) == (["consumed", "dead"], ["1"])


def test_handlers_that_cause_themselves_do_not_run_for_ever(handlers: Registry) -> None:
    handlers.register("order.created", lambda event: publish("order.created", 1))
    order()
    with pytest.raises(AssertionError, match="51 messages were published while the handlers ran"):
        drain(limit=50)


def test_receivers_that_cause_messages_do_not_run_for_ever(handlers: Registry) -> None:
    def publish_another(**about: Any) -> None:
        order()

    signals.message_published.connect(publish_another)
    try:
        order()
        with pytest.raises(AssertionError, match="51 messages were published"):
            drain(limit=50)
    finally:
        signals.message_published.disconnect(publish_another)


def test_a_message_that_is_never_dead_does_not_fail_for_ever(handlers: Registry) -> None:
    handlers.register("order.created", fails)
    message = order(max_retry=30_000)
    with pytest.raises(AssertionError, match=f"Message {message.id} has failed 6 times"):
        drain(limit=5)


def test_messages_of_the_test_may_be_more_than_the_limit(handlers: Registry) -> None:
    handlers.register("order.created", effect_of_payload)
    with transaction.atomic():
        publish_many(Event(type="order.created", payload=number) for number in range(30))
    assert drain(limit=5).consumed == 30


# What is left waiting, and why


def test_messages_that_would_never_be_finished_fail_the_test_with_the_reason(handlers: Registry) -> None:
    def is_locked(event: Event) -> None:
        raise OperationalError("database is locked")

    handlers.register("order.created", is_locked)
    message = order()
    reason = (
        rf"not finished:\n  OutboxMessage {message.id} \(order.created\): due in .*, after OperationalError: .*locked"
    )
    with pytest.raises(AssertionError, match=reason):
        drain()
    result = drain(raise_errors=False)
    assert (result.failed, len(result.waiting)) == (0, 1)
    assert drain(max_wait=0).waiting


def test_a_paused_message_waits(handlers: Registry) -> None:
    handlers.register("order.created", effect_of_payload)
    handlers.register("order.paid", effect_of_payload)
    pauses.pause("tests", event_type="order.created", reason="x", by="ada", using="default")
    order()
    with transaction.atomic():
        publish("order.paid", 2, delay=3600)
    result = drain()
    assert [(each.message.event_type, each.reason) for each in result.waiting] == [
        ("order.created", "order.created is paused")
    ]
    assert effects() == ["2"]


def test_a_message_waits_behind_a_dead_one_of_its_key(handlers: Registry) -> None:
    handlers.register("order.created", fails)
    with outbox_settings(ON_DEAD="hold"):
        dead = order(key="7", max_retry=1)
        order(2, key="7")
        result = drain(raise_errors=False)
    assert [each.reason for each in result.waiting] == [f"waits for message {dead.id} of its key, which is dead"]


def test_a_topic_that_nobody_reads_is_named(handlers: Registry) -> None:
    handlers.register("order.created", effect_of_payload)
    order(topic="elsewhere")
    with pytest.raises(AssertionError, match="no consumer reads the topic elsewhere"):
        drain()
    (waiting,) = drain(raise_errors=False).waiting
    assert not waiting.is_held


def test_a_batch_that_is_not_full_is_handled_in_the_end_also_if_time_stands_still(handlers: Registry) -> None:
    handlers.register("order.created", effects_of_payloads, batch=50, wait=3600)
    order()
    later = order(2, delay=86400)
    (waiting,) = drain(max_wait=0).waiting
    assert (effects(), waiting.message) == (["1"], later)


def test_an_inbox_message_of_a_group_that_is_gone_is_named(handlers: Registry) -> None:
    from tests.support.inbox import make_received

    make_received(group="old")
    (waiting,) = drain().waiting
    assert waiting.reason == "the consumer group 'old' has no handlers"
    assert waiting.is_held


def test_the_circuit_breaker_opens_and_tries_again(handlers: Registry) -> None:
    handlers.register("order.created", fails)
    with outbox_settings(CIRCUIT_BREAKER={"FAILURES": 2, "PAUSE": 300}):
        order(max_retry=4)
        result = drain(raise_errors=False)
    assert (result.failed, len(result.dead), result.waiting) == (4, 1, ())


# With Debezium


@pytest.mark.databases("postgresql")
def test_messages_that_debezium_would_send_are_handled(handlers: Registry) -> None:
    attempts: list[int] = []
    handlers.register("order.created", lambda event: attempts.append(event.attempt))
    handlers.register("order.created", lambda event: publish("order.shipped", 2, key="7"))
    handlers.register("order.shipped", effect_of_payload)
    with outbox_settings(PUBLISHER="debezium"):
        order(key="7")
        result = drain()
    assert (attempts, effects(), result.consumed) == ([1], ["2"], 2)
    assert statuses() == ["consumed", "consumed"]


@pytest.mark.databases("postgresql")
def test_messages_without_a_handler_that_debezium_sent_are_not_sent_by_each_drain(handlers: Registry) -> None:
    handlers.register("order.created", effect_of_payload)
    with outbox_settings(PUBLISHER="debezium"):
        with transaction.atomic():
            publish("order.shipped", 1, key="7")
        order(key="7")
        assert [drain().published, drain().published] == [1, 0]


# Where it may be called


@pytest.mark.parametrize("in_test_case", [True, False])
def test_it_is_refused_in_a_transaction_of_the_test(in_test_case: bool, request: pytest.FixtureRequest) -> None:
    if not in_test_case:
        request.getfixturevalue("transactional_db")
    with transaction.atomic(), pytest.raises(RuntimeError, match="Call it after the block"):
        drain()
