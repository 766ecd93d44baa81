"""The outbox as a source, by itself: what becomes of each record, and what is told about it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import OperationalError, transaction
from django.utils import timezone

from django_outbox.consumer import outbox as module
from django_outbox.consumer.outbox import OutboxSource
from django_outbox.consumer.own_record import OwnRecord, own_record
from django_outbox.consumer.pauses import Pauses
from django_outbox.consumer.source import REQUEUE_DELAY, UNDECIDED, Claim, Outcome
from django_outbox.handlers.registry import GroupHandlers, Registry
from django_outbox.models import OutboxMessage, Pause
from django_outbox.state.pauses import AFTER_OTHERS
from tests.support.clock import Clock
from tests.support.inbox import received
from tests.support.outbox import make_message, make_sent
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db

FAULT = OperationalError("deadlock")


def record_of(message: OutboxMessage, **changed: Any) -> OwnRecord:
    """The record that the row names, or one like it."""
    given: dict[str, Any] = {
        "key": message.message_key or None,
        "topic": message.topic,
        "partition": message.partition or 0,
        "offset": message.offset or 0,
        "id": str(message.event_id),
        "source": "tests",
        "type": message.event_type,
        "outboxid": str(message.id),
        "outboxattempt": str(message.publish_count),
        **changed,
    }
    found = own_record(received(1, **given), "tests")
    assert found is not None
    return found


class Scene:
    """A source with a handler of ``order.created``."""

    def __init__(self, clock: Clock) -> None:
        registry = Registry()
        registry.register("order.created", lambda event: None)
        handlers = GroupHandlers(registry, "tests")
        self.source = OutboxSource("default", handlers, Pauses("default", handlers, clock), clock)
        self.source.waits.most = 10

    def claim(self, *items: OwnRecord) -> list[Claim]:
        with transaction.atomic():
            return self.source.claim(items, [UNDECIDED] * len(items))

    def outcomes(self, *items: OwnRecord) -> list[str]:
        return [claim.outcome for claim in self.claim(*items)]

    def settle(self, *items: OwnRecord, left: int = 0) -> None:
        with transaction.atomic():
            claims = self.source.claim(items, [UNDECIDED] * len(items))
            done = len(claims) - left
            self.source.settle(claims[:done], claims[done:])


@pytest.fixture
def scene(clock: Clock) -> Scene:
    return Scene(clock)


def make_key(count: int, **fields: Any) -> list[OutboxMessage]:
    """Sent messages of one key, in the order of the topic."""
    return [make_sent(message_key="k", offset=number, **fields) for number in range(count)]


# What is told


def test_a_delivery_is_named_in_logs(scene: Scene) -> None:
    message = make_sent()
    name, extra = scene.source.describe(record_of(message))
    assert name == f"message {message.id}"
    assert extra == {"message_id": message.id, "event_id": str(message.event_id), "topic": "outbox", "attempt": 3}


def test_a_record_without_a_row_is_skipped_and_the_log_says_so(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    message = make_sent(partition=2, offset=7)
    item = record_of(message)
    message.delete()
    assert scene.outcomes(item) == ["skipped"]
    (line,) = caplog.records
    assert line.getMessage() == f"Skipped the record outbox[2]@7: there is no outbox message {item.id}."
    assert (line.__dict__["action"], line.__dict__["message_id"]) == ("skipped", item.id)


def test_a_message_that_meets_faults_without_end_waits_uncounted(
    scene: Scene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    monkeypatch.setattr(module, "requeued", counted.append)
    message, other = make_sent(), make_sent(offset=8)
    assert scene.source.requeue(record_of(message), FAULT) == "requeued"
    message.refresh_from_db()
    other.refresh_from_db()
    assert (message.status, other.status, message.retry_count) == ("pending", "published", 0)
    assert message.next_retry_at is not None
    assert abs(message.next_retry_at - message.updated_at - REQUEUE_DELAY) < timedelta(seconds=1)
    (line,) = caplog.records
    text = f"Message {message.id} waits 32 s, because the database failed 5 times: deadlock"
    assert (line.getMessage(), line.__dict__["action"], line.__dict__["message_id"]) == (text, "put_back", message.id)
    assert counted == ["database"]


@pytest.mark.parametrize("changed", [{"offset": 8}, {"outboxattempt": "2"}])
def test_only_the_current_record_of_a_message_is_put_back(scene: Scene, changed: dict[str, Any]) -> None:
    message = make_sent()
    assert scene.source.requeue(record_of(message, **changed), FAULT) == "skipped"
    item = record_of(message)
    message.delete()
    assert scene.source.requeue(item, FAULT) == "skipped"


def test_a_failure_of_a_message_that_was_changed_meanwhile_is_skipped_and_the_log_says_so(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    message = make_sent()
    item = record_of(message)
    (claim,) = scene.claim(item)
    OutboxMessage.objects.filter(id=message.id).update(publish_count=4)
    assert scene.source.fail(item, claim, ValueError("no")) == "skipped"
    (line,) = caplog.records
    assert line.getMessage() == f"Message {message.id} was changed or removed while it was handled."
    assert (line.__dict__["action"], line.__dict__["message_id"]) == ("skipped", message.id)


def test_an_error_before_a_message_was_claimed_is_not_its_failure(scene: Scene) -> None:
    for claim in (None, Claim(Outcome.SKIPPED)):
        with pytest.raises(ValueError, match="no"):
            scene.source.fail(record_of(make_sent()), claim, ValueError("no"))


# What it costs


@pytest.mark.parametrize(("unknown", "cost"), [("ignore", 0.0), ("dead", 1.0)])
def test_a_message_without_a_handler_costs_a_transaction_if_it_is_to_be_dead(
    scene: Scene, unknown: str, cost: float
) -> None:
    with outbox_settings(UNKNOWN_EVENT=unknown):
        assert scene.source.cost(record_of(make_sent(event_type="order.unknown"))) == cost
        assert scene.source.cost(record_of(make_sent())) == 1.0


# Claims


def test_of_several_records_of_a_message_its_row_names_one(scene: Scene) -> None:
    message = make_sent()
    stale, current, again = record_of(message, offset=6), record_of(message), record_of(message)
    assert scene.outcomes(stale, current, again) == ["skipped", "consumed", "skipped"]


@pytest.mark.parametrize(
    ("attempt", "age", "outcome"), [(1, 0, "waiting"), (2, 0, "skipped"), (1, 3600, "skipped"), (1, 3500, "waiting")]
)
def test_a_row_that_may_not_be_visible_yet_is_waited_for(scene: Scene, attempt: int, age: int, outcome: str) -> None:
    message = make_sent()
    behind, last, other, without_key = (make_sent(message_key=key, offset=8) for key in ("k", "k", "l", ""))
    at = (datetime.now(UTC) - timedelta(seconds=age)).isoformat()
    unseen = record_of(message, outboxattempt=str(attempt), time=at, key="k")
    message.delete()
    claims = scene.claim(unseen, *map(record_of, (behind, last, other, without_key)))
    expected = "waiting" if outcome == "waiting" else "consumed"
    assert [claim.outcome for claim in claims] == [outcome, expected, expected, "consumed", "consumed"]
    if outcome == "waiting":
        assert [scene.source.waits.find(message.id).awaited for message in (behind, last)] == [0, 0]


def test_without_keys_a_message_waits_for_no_row_of_another(scene: Scene) -> None:
    message, other = make_sent(), make_sent(offset=8)
    unseen = record_of(message, outboxattempt="1", time=datetime.now(UTC).isoformat())
    message.delete()
    assert scene.outcomes(unseen, record_of(other)) == ["waiting", "consumed"]


def test_a_key_that_is_no_text_waits_for_its_row_too(scene: Scene) -> None:
    message = make_sent()
    unseen = record_of(message, outboxattempt="1", time=datetime.now(UTC).isoformat(), key=b"\xff")
    message.delete()
    assert scene.outcomes(unseen) == ["waiting"]


class Replica:
    """A router that reads from a database that has not everything yet."""

    def db_for_read(self, model: type[Any], **hints: Any) -> str:
        return "replica"


def test_whether_a_row_may_be_invisible_is_asked_of_its_own_database(scene: Scene, settings: Any) -> None:
    message = make_sent()
    unseen = record_of(message, outboxattempt="1", time=datetime.now(UTC).isoformat())
    message.delete()
    settings.DATABASE_ROUTERS = [Replica()]
    assert scene.outcomes(unseen) == ["waiting"]


def test_a_handler_gets_a_tombstone_as_such(scene: Scene) -> None:
    tombstone, other = make_sent(content_type="", message_key="k"), make_sent(offset=8)
    events = [claim.event for claim in scene.claim(record_of(tombstone), record_of(other))]
    assert [event and event.is_tombstone for event in events] == [True, False]


def test_what_waits_for_a_row_without_room_in_hand_is_sent_again(scene: Scene) -> None:
    scene.source.waits.most = 0
    message = make_sent()
    unseen = record_of(message, outboxattempt="1", time=datetime.now(UTC).isoformat())
    message.delete()
    assert scene.outcomes(unseen) == ["skipped"]


@pytest.mark.parametrize(("on_dead", "outcome"), [("continue", "consumed"), ("hold", "requeued")])
@pytest.mark.parametrize("fields", [{"event_type": "order.unknown"}, {"delivery_count": 6}])
def test_a_message_that_is_dead_holds_those_behind_it_if_that_is_asked_for(
    scene: Scene, on_dead: str, outcome: str, fields: dict[str, Any]
) -> None:
    with outbox_settings(ON_DEAD=on_dead, UNKNOWN_EVENT="dead"):
        dead = make_sent(message_key="k", offset=0, **fields)
        behind, last, other = (make_sent(message_key=key, offset=at) for at, key in enumerate("kkl", 1))
        claims = scene.claim(*map(record_of, (dead, behind, last, other)))
    assert [claim.outcome for claim in claims] == ["dead", outcome, outcome, "consumed"]
    text = "No handler is registered for 'order.unknown'" if "event_type" in fields else "while the handler ran."
    assert text in claims[0].reason
    if outcome == "requeued":
        assert [(claim.reason, claim.until) for claim in claims[1:3]] == [("order", REQUEUE_DELAY)] * 2


@pytest.mark.parametrize(("count", "outcome"), [(5, "consumed"), (6, "dead")])
def test_a_message_may_take_the_process_down_five_times(scene: Scene, count: int, outcome: str) -> None:
    assert scene.outcomes(record_of(make_sent(delivery_count=count))) == [outcome]


def test_messages_behind_one_that_waits_wait_for_it(scene: Scene) -> None:
    pending = make_message(message_key="k", next_retry_at=timezone.now() + timedelta(seconds=5))
    first, second = make_key(2)
    claims = scene.claim(record_of(first), record_of(second))
    assert [claim.outcome for claim in claims] == ["waiting", "waiting"]
    waits = [scene.source.waits.find(message.id) for message in (first, second)]
    assert [(wait.awaited, wait.is_placed) for wait in waits] == [(pending.id, True)] * 2


def test_a_message_that_comes_before_an_earlier_one_of_its_key_waits_for_its_turn(scene: Scene) -> None:
    first, second = make_key(2)
    assert scene.outcomes(record_of(second), record_of(first)) == ["waiting", "consumed"]
    assert scene.source.waits.find(second.id).awaited is None


def test_a_message_that_must_not_wait_in_hand_is_sent_again_at_once_for_its_turn(scene: Scene) -> None:
    scene.source.waits.most = 0
    first, second = make_key(2)
    claims = scene.claim(record_of(second), record_of(first))
    assert [(claim.outcome, claim.until) for claim in claims] == [
        ("requeued", timedelta(0)),
        ("consumed", REQUEUE_DELAY),
    ]


def test_messages_behind_a_dead_one_do_not_wait_in_hand(scene: Scene) -> None:
    make_message("dead", message_key="k")
    with outbox_settings(ON_DEAD="hold"):
        claims = scene.claim(*map(record_of, make_key(2)))
    assert [(claim.outcome, claim.reason) for claim in claims] == [("requeued", "order")] * 2


def test_a_paused_message_is_put_back_with_those_behind_it(scene: Scene) -> None:
    until = timezone.now() + timedelta(days=1)
    Pause.objects.create(group="tests", event_type="order.created", reason="no", created_by="kim", until=until)
    first, second = make_key(2)
    claims = scene.claim(record_of(first), record_of(second))
    assert [(claim.outcome, claim.reason) for claim in claims] == [("requeued", "paused"), ("requeued", "order")]
    assert [claim.until for claim in claims] == [until, until]


@pytest.mark.parametrize(("retries", "later"), [(0, timedelta(0)), (1, AFTER_OTHERS), (2, AFTER_OTHERS)])
def test_after_a_pause_messages_that_have_failed_come_last(scene: Scene, retries: int, later: timedelta) -> None:
    until = timezone.now() + timedelta(days=1)
    Pause.objects.create(group="tests", event_type="order.created", reason="no", created_by="kim", until=until)
    (claim,) = scene.claim(record_of(make_sent(retry_count=retries)))
    assert claim.until == until + later


# Settling


def test_each_outcome_is_stored_in_its_row_only(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    Pause.objects.create(group="tests", event_type="order.paid", reason="no", created_by="kim")
    registry = Registry()
    for event_type in ("order.created", "order.paid"):
        registry.register(event_type, lambda event: None)
    handlers = GroupHandlers(registry, "tests")
    scene.source = OutboxSource("default", handlers, Pauses("default", handlers, Clock()), Clock())
    with outbox_settings(UNKNOWN_EVENT="dead"):
        types = ["order.created", "order.paid", "order.unknown", "order.created", "order.paid"]
        messages = [make_sent(event_type=event_type, offset=offset) for offset, event_type in enumerate(types)]
        stale = record_of(messages[0], offset=9)
        left: list[tuple[str, str]] = []
        monkeypatch.setattr(Pauses, "leave", lambda self, event_type, topic: left.append((event_type, topic)))
        scene.settle(stale, *map(record_of, messages), left=2)
    assert [*OutboxMessage.objects.order_by("id").values_list("status", flat=True)] == [
        "consumed",
        "pending",
        "dead",
        "published",
        "published",
    ]
    assert left == [("order.created", "outbox")]


def test_what_waits_was_not_delivered(scene: Scene) -> None:
    make_message(message_key="k", next_retry_at=timezone.now() + timedelta(seconds=5))
    waiting, other = (
        make_sent(message_key="k", delivery_count=1),
        make_sent(message_key="l", delivery_count=1, offset=8),
    )
    scene.settle(record_of(waiting), record_of(other))
    counts = dict(OutboxMessage.objects.values_list("id", "delivery_count"))
    assert (counts[waiting.id], counts[other.id]) == (0, 1)


# Deliveries


def test_deliveries_are_counted_once_and_taken_back_if_they_did_not_run(scene: Scene) -> None:
    messages = [make_sent(offset=offset) for offset in range(3)]
    items = [record_of(message) for message in messages]

    def counts() -> list[int]:
        return [*OutboxMessage.objects.order_by("id").values_list("delivery_count", flat=True)]

    scene.source.count_deliveries(items[:2])
    scene.source.count_deliveries(items)
    assert counts() == [1, 1, 1]
    assert scene.source.counted([message.id for message in messages[:2]]) == {messages[0].id, messages[1].id}
    scene.source.uncount_deliveries(items[1:])
    assert counts() == [1, 0, 0]
    scene.source.uncount_deliveries(items[1:])
    assert counts() == [1, 0, 0]
    scene.source.count_deliveries(items)
    assert counts() == [1, 1, 1]


def test_nothing_to_count_asks_nothing(scene: Scene, django_assert_num_queries: Any) -> None:
    item = record_of(make_sent())
    scene.source.count_deliveries([item])
    with django_assert_num_queries(0):
        scene.source.count_deliveries([item])
        scene.source.uncount_deliveries([])


# Waiting on


def test_messages_wait_on_while_the_one_before_them_is_still_published(scene: Scene) -> None:
    first, second = make_key(2)
    other = make_sent(message_key="l", offset=9)
    waits = scene.source.waits
    for message, awaited in ((second, first.id), (other, 0)):
        item = record_of(message)
        assert waits.may_wait(message.id, item.partition, timedelta(0), awaited=awaited)
    until = scene.source.wait_on([record_of(second), record_of(other)])
    assert until == {second.id: waits.find(second.id).until}
    OutboxMessage.objects.filter(id=first.id).update(status="consumed", consumed_at=timezone.now())
    assert scene.source.wait_on([record_of(second)]) == {}
