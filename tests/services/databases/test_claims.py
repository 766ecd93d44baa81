"""Claims: what is due is taken in turn, and nothing is passed over for long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, transaction
from django.utils import timezone

from django_outbox.exceptions import BrokerUnavailable
from django_outbox.models import OutboxMessage
from django_outbox.relay.claims import LOOK_BACK_SECONDS, STALLED_SECONDS
from django_outbox.relay.growth import LOCK_SECONDS
from django_outbox.relay.relay import Pass, Relay
from django_outbox.worker.stop import Stop
from tests.support.outbox import ScriptedBroker, Status, in_thread, make_message, memory_broker, row, statuses

pytestmark = [pytest.mark.databases("postgresql"), pytest.mark.django_db]

AN_HOUR = timedelta(hours=1)


@contextmanager
def locked_elsewhere(*messages: OutboxMessage) -> Iterator[threading.Event]:
    """Another session has the messages in hand, until the event is set or the block ends."""
    locked, release = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            list(OutboxMessage.objects.select_for_update().filter(id__in=[message.id for message in messages]))
            locked.set()
            assert release.wait(30)

    with in_thread(hold):
        assert locked.wait(30)
        yield release
        release.set()


def test_a_message_that_becomes_due_ahead_of_others_waits_for_a_second_at_most() -> None:
    now = [100.0]

    def take_long(records: Any, outcomes: Any) -> Any:
        now[0] += LOCK_SECONDS
        return outcomes

    relay = Relay(ScriptedBroker(take_long), using="default", batch_size=2, clock=lambda: now[0])
    messages = [make_message() for _ in range(8)]
    assert relay.run_once().published == 2
    late = make_message(next_retry_at=timezone.now() - AN_HOUR)

    assert relay.run_once().published == 2
    assert row(late).status == Status.PENDING
    now[0] += LOOK_BACK_SECONDS
    assert relay.run_once().published == 2

    assert row(late).status == Status.PUBLISHED
    assert [row(message).status for message in messages] == [Status.PUBLISHED] * 5 + [Status.PENDING] * 3


def test_a_message_that_becomes_due_ahead_of_others_is_taken_with_the_last_of_them() -> None:
    relay = Relay(memory_broker(), using="default", batch_size=2, clock=lambda: 100.0)
    for _ in range(3):
        make_message()
    assert relay.run_once().published == 2
    make_message(next_retry_at=timezone.now() - AN_HOUR)

    assert relay.run_once().published == 2

    assert statuses() == [Status.PUBLISHED] * 4


def test_a_message_that_another_relay_had_in_hand_is_taken_when_all_others_are() -> None:
    relay = Relay(memory_broker(), using="default", batch_size=2, clock=lambda: 100.0)
    messages = [make_message() for _ in range(4)]
    assert relay.run_once().published == 2
    OutboxMessage.objects.filter(id=messages[0].id).update(
        status=Status.PENDING, publish_count=0, next_retry_at=timezone.now() - AN_HOUR
    )
    assert relay.run_once().published == 2
    assert relay.run_once().published == 1
    assert statuses() == [Status.PUBLISHED] * 4


def test_nothing_is_sent_twice_where_claims_begin_further_on() -> None:
    sent: list[bytes] = []

    def answer(records: Any, outcomes: Any) -> Any:
        sent.extend(record.value for record in records)
        return outcomes

    for number in range(11):
        make_message(payload=number)
    relay = Relay(ScriptedBroker(answer), using="default", batch_size=2, clock=lambda: 100.0)
    while relay.run_once().moved:
        pass
    assert sent == [b"%d" % number for number in range(11)]


@pytest.mark.django_db(transaction=True)
def test_a_key_that_another_relay_has_in_hand_for_long_keeps_no_other_key_back() -> None:
    """The oldest due messages are all behind one that is locked elsewhere, such as by a host that lost its power."""
    head = make_message(message_key="hot")
    hot = [make_message(message_key="hot") for _ in range(20)]
    other = make_message(message_key="cold")
    now = [100.0]
    relay = Relay(memory_broker(), using="default", batch_size=5, clock=lambda: now[0])

    with locked_elsewhere(head):
        assert not relay.run_once().moved  # mostly that takes a moment only
        now[0] += STALLED_SECONDS
        passes = [relay.run_once() for _ in range(6)]
        now[0] += LOOK_BACK_SECONDS
        new = make_message(message_key="new")
        passes_later = [relay.run_once() for _ in range(6)]

    assert [row(message).status for message in (other, new)] == [Status.PUBLISHED] * 2
    assert {row(message).status for message in hot} == {Status.PENDING}
    for last in (passes[-1], passes_later[-1]):
        assert (last.claimed, last.moved) == (0, False)  # no hot loop, either


@pytest.mark.django_db(transaction=True)
def test_a_batch_that_is_nearly_full_of_a_key_in_other_hands_does_not_slow_the_rest() -> None:
    head = make_message(message_key="hot")
    hot = [make_message(message_key="hot") for _ in range(4)]
    others = [make_message() for _ in range(50)]
    now = [100.0]
    relay = Relay(memory_broker(), using="default", batch_size=5, clock=lambda: now[0])

    with locked_elsewhere(head):
        published = [relay.run_once().published]
        now[0] += STALLED_SECONDS
        published += [relay.run_once().published for _ in range(11)]

    assert published == [1, 1, *[5] * 9, 3]
    assert {row(message).status for message in others} == {Status.PUBLISHED}
    assert {row(message).status for message in hot} == {Status.PENDING}


@pytest.mark.django_db(transaction=True)
def test_what_another_relay_has_in_hand_for_a_moment_lets_none_run_ahead() -> None:
    """It would find ever more that is behind what it passed over, and so would the other."""
    heads = [make_message(message_key=f"{number}") for number in range(8)]
    for number in range(8):
        make_message(message_key=f"{number}")
    relay = Relay(memory_broker(), using="default", batch_size=5, clock=lambda: 100.0)

    with locked_elsewhere(*heads):
        assert [relay.run_once().moved for _ in range(3)] == [False] * 3
    OutboxMessage.objects.filter(id__in=[message.id for message in heads]).delete()  # the other relay has sent them

    assert [relay.run_once().published for _ in range(2)] == [5, 3]


@pytest.mark.django_db(transaction=True)
def test_what_was_passed_over_is_taken_as_soon_as_it_blocks_the_rest() -> None:
    head = make_message(message_key="hot")
    for _ in range(20):
        make_message(message_key="hot")
    now = [100.0]
    relay = Relay(memory_broker(), using="default", batch_size=5, clock=lambda: now[0])
    with locked_elsewhere(head):
        relay.run_once()
        now[0] += STALLED_SECONDS
        assert [relay.run_once().skipped for _ in range(2)] == [5, 5]
    OutboxMessage.objects.filter(id=head.id).delete()  # the other relay has sent it

    passes = [relay.run_once() for _ in range(5)]

    assert [done.published for done in passes] == [0, 5, 10, 5, 0]


@pytest.mark.django_db(transaction=True)
def test_a_pass_does_not_wait_for_messages_that_it_would_postpone_and_another_relay_has_locked() -> None:
    later = timezone.now() + AN_HOUR
    make_message(message_key="a", next_retry_at=later)
    behind, locked = make_message(message_key="a"), make_message(message_key="a")
    relay = Relay(memory_broker(), using="default")

    with locked_elsewhere(locked):
        assert relay.run_once().postponed == 1

    assert row(behind).next_retry_at == later
    assert row(locked).next_retry_at == locked.next_retry_at


def drain_behind(
    head: OutboxMessage, stop: Stop, every: float, on_pass: Callable[[int, threading.Event], None]
) -> list[int]:
    """Drain while another session has a message in hand; what each pass claimed.

    Args:
        every: seconds from one pass to the next.
        on_pass: called after each with how many have claimed nothing so far, and what lets the other session end.
    """
    now = [100.0]
    relay = Relay(memory_broker(), using="default", batch_size=5, poll_interval=0.01, clock=lambda: now[0])
    passes: list[int] = []
    run_once = relay.run_once

    def counted() -> Pass:
        done = run_once()
        passes.append(done.claimed)
        now[0] += every
        on_pass(passes.count(0), release)
        return done

    relay.run_once = counted  # type: ignore[method-assign]
    with locked_elsewhere(head) as release:
        relay.run(stop, drain=True)
        assert release.is_set()
    return passes


@pytest.mark.django_db(transaction=True)
def test_a_drain_does_not_end_before_what_it_passed_over_is_sent(stop: Stop) -> None:
    head, *_ = [make_message(message_key="hot") for _ in range(11)]

    def release_late(empty: int, release: threading.Event) -> None:
        if empty == 3:  # it has seen again and again that there is nothing that it may take
            release.set()

    drain_behind(head, stop, STALLED_SECONDS, release_late)

    assert statuses() == [Status.PUBLISHED] * 11


@pytest.mark.django_db(transaction=True)
def test_a_drain_ends_when_others_have_dealt_with_what_it_passed_over(stop: Stop) -> None:
    head, *_ = [make_message(message_key="hot") for _ in range(11)]

    def deal_with_all(empty: int, release: threading.Event) -> None:
        if empty == 1:
            release.set()
            OutboxMessage.objects.all().delete()  # waits for the lock
        elif empty == 10:
            stop.request()

    assert drain_behind(head, stop, STALLED_SECONDS / 2, deal_with_all) == [5, 5, 5, 5, 0, 0]


# Batches of several claims


def relay_that_is_behind(broker: Any, batch_size: int) -> Relay:
    """A relay whose batches take no time, so that they grow."""
    return Relay(broker, using="default", batch_size=batch_size, clock=lambda: 100.0)


def test_batches_grow_while_the_relay_is_behind_and_each_message_is_sent_once() -> None:
    broker = memory_broker()
    messages = [make_message() for _ in range(40)]
    relay = relay_that_is_behind(broker, 2)

    assert [relay.run_once().published for _ in range(6)] == [2, 4, 8, 16, 10, 0]

    sent = sorted(int(dict(record.headers)["ce_outboxid"]) for record in broker.records("outbox"))
    assert sent == [message.id for message in messages]


def test_batches_are_of_the_normal_size_again_after_one_that_was_not_full() -> None:
    relay = relay_that_is_behind(memory_broker(), 2)
    for _ in range(7):
        make_message()
    assert [relay.run_once().published for _ in range(4)] == [2, 4, 1, 0]
    for _ in range(5):
        make_message()
    assert [relay.run_once().published for _ in range(2)] == [2, 3]


def test_a_key_keeps_its_order_across_the_claims_of_a_batch() -> None:
    """The later message of the key is due first, so the first claim takes it, and the second its earlier one."""
    sent: list[bytes] = []

    def answer(records: Any, outcomes: Any) -> Any:
        sent.extend(record.value for record in records)
        return outcomes

    relay = relay_that_is_behind(ScriptedBroker(answer), 1)
    now = timezone.now()
    for minutes, (key, payload) in enumerate([("", 0), ("a", 2), ("a", 1)]):
        make_message(message_key=key, payload=payload, next_retry_at=now - AN_HOUR + timedelta(minutes=minutes))
    first, second = OutboxMessage.objects.filter(message_key="a").order_by("id")
    assert first.next_retry_at < second.next_retry_at
    OutboxMessage.objects.filter(id=first.id).update(next_retry_at=now)

    assert [relay.run_once().published for _ in range(2)] == [1, 2]

    assert sent == [b"0", b"2", b"1"]


def test_what_another_relay_is_sending_blocks_its_key_in_every_claim_of_a_batch() -> None:
    relay = relay_that_is_behind(memory_broker(), 2)
    for _ in range(2):
        make_message()
    assert relay.run_once().published == 2
    head = make_message(message_key="hot")
    others = [make_message(message_key=key) for key in ("cold", "cold", "cold", "hot")]
    OutboxMessage.objects.filter(id=head.id).update(next_retry_at=timezone.now() + AN_HOUR)

    done = relay.run_once()

    assert (done.claimed, done.published, done.blocked) == (4, 3, 1)
    assert row(others[3]).status == row(head).status == Status.PENDING


def test_a_broker_that_goes_away_harms_no_message_of_a_grown_batch() -> None:
    answers: list[Any] = []

    def answer(records: Any, outcomes: Any) -> Any:
        answers.append(len(records))
        if len(answers) == 3:
            raise BrokerUnavailable("away")
        return outcomes

    for _ in range(20):
        make_message()
    relay = relay_that_is_behind(ScriptedBroker(answer), 2)
    assert [relay.run_once().published for _ in range(2)] == [2, 4]

    with pytest.raises(BrokerUnavailable):
        relay.run_once()

    assert OutboxMessage.objects.filter(status=Status.PENDING, retry_count=0, publish_count=0).count() == 14
    assert [relay.run_once().published for _ in range(4)] == [2, 4, 8, 0]
    assert answers == [2, 4, 8, 2, 4, 8]


def test_a_batch_does_not_grow_where_only_its_first_claim_looked_for_earlier_messages() -> None:
    """After a pass that was not full and then failed, a claim looks for them itself."""
    faults = [OperationalError("the connection is lost")]

    def answer(records: Any, outcomes: Any) -> Any:
        if len(records) == 1 and faults:
            raise faults.pop()
        return outcomes

    relay = relay_that_is_behind(ScriptedBroker(answer), 2)
    for _ in range(3):
        make_message(message_key="a")
    assert relay.run_once().published == 2
    with pytest.raises(OperationalError):
        relay.run_once()
    make_message(message_key="a")
    head = make_message(message_key="hot", next_retry_at=timezone.now() + AN_HOUR)
    behind = make_message(message_key="hot")

    assert [relay.run_once().published for _ in range(3)] == [2, 0, 0]

    assert row(behind).status == row(head).status == Status.PENDING
