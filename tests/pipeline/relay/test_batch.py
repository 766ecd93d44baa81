"""A batch of the relay by itself: what becomes of each message, and what it holds back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from django_outbox.brokers.base import Acknowledged, Failed, Producer, Record, Refused, SendResult, TopicTrouble
from django_outbox.brokers.waiting import PartitionTrouble
from django_outbox.events.writer import Outgoing
from django_outbox.events.writer import encode as write
from django_outbox.exceptions import RegistryUnavailable
from django_outbox.models import OutboxMessage
from django_outbox.observability import instrumentation
from django_outbox.relay import batch as batches
from django_outbox.relay.batch import Batch
from django_outbox.relay.claims import claims_of
from django_outbox.serializers.base import LOAD_SECONDS, NotLoaded
from tests.support.clock import Clock
from tests.support.outbox import make_message
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db

NO_LEADER = TopicTrouble("no leader of partition 0")
AWAY = PartitionTrouble("no leader of partition 1")


class Answers(Producer):
    """Acknowledges records, except some by the number of their message; keeps the numbers that it got."""

    usable = True

    def __init__(self, answers: Mapping[int, SendResult]) -> None:
        self.answers = answers
        self.got: list[int] = []

    def send(self, records: Iterable[Record], timeout: float) -> list[SendResult]:
        results: list[SendResult] = []
        for record in records:
            id = int(dict(record.headers)["ce_outboxid"] or b"")
            self.got.append(id)
            results.append(self.answers.get(id, Acknowledged(0, 100 + id)))
        return results

    def close(self) -> None: ...


class Sent:
    """A batch of all due messages, after its transaction.

    Args:
        answers: of the broker, by message.
        errors: that encoding messages raises.
    """

    def __init__(
        self,
        answers: Mapping[int, SendResult] | None = None,
        errors: Mapping[int, Exception] | None = None,
        loads: dict[Any, Exception | None] | None = None,
    ) -> None:
        def encode(message: Outgoing, **options: Any) -> Record:
            if errors and message.id in errors:
                raise errors[message.id]
            return write(message, **options)

        self.producer = Answers(answers or {})
        with pytest.MonkeyPatch.context() as patch, transaction.atomic():
            patch.setattr(batches, "encode", encode)
            messages = claims_of("default", Clock()).claim(100, []).messages
            self.batch = Batch(messages, using="default", loads=loads)
            self.batch.send(self.producer)
            self.batch.store()

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Published, failed, dead and held."""
        batch = self.batch
        return batch.published, batch.failed, batch.dead, batch.held


def make(*keys: str, **fields: Any) -> list[int]:
    """Due messages with these keys."""
    return [make_message(message_key=key, **fields).id for key in keys]


def statuses() -> list[str]:
    return [*OutboxMessage.objects.order_by("id").values_list("status", flat=True)]


# Encoding


def no_schema(key: str = "schema") -> NotLoaded:
    return NotLoaded(key, lambda: None)


@pytest.mark.parametrize(
    ("error", "counts", "text"),
    [
        (ImproperlyConfigured("no serializer"), (0, 1, 0, 0), "no serializer"),
        (ValueError("not this"), (0, 0, 1, 0), "It cannot be encoded: not this"),
        (TypeError("not this"), (0, 0, 1, 0), "It cannot be encoded: not this"),
        (AttributeError("not this"), (0, 0, 1, 0), "It cannot be encoded: not this"),
        (RuntimeError("not\nthis"), (0, 0, 1, 0), "It cannot be encoded: RuntimeError: not this"),
        (no_schema("broken"), (0, 0, 1, 0), "Its schema cannot be loaded: KeyError: 'no such schema'"),
    ],
)
def test_a_message_that_cannot_be_encoded_says_why(
    error: Exception, counts: tuple[int, int, int, int], text: str
) -> None:
    (id,) = make("k")
    sent = Sent(errors={id: error}, loads={"broken": KeyError("no such schema")})
    assert (sent.counts, sent.producer.got) == (counts, [])
    assert OutboxMessage.objects.get().last_error == text


@pytest.mark.parametrize(
    ("error", "waiting"),
    [
        (RegistryUnavailable("away", 7.0), {"outbox": 7.0}),
        (no_schema("away"), {"outbox": 9.0}),
        (no_schema("slow"), {"outbox": LOAD_SECONDS}),
        (no_schema("unknown"), {}),
    ],
)
def test_a_message_whose_schema_is_not_loaded_waits_uncounted(error: Exception, waiting: dict[str, float]) -> None:
    (id,) = make("k")
    sent = Sent(errors={id: error}, loads={"away": RegistryUnavailable("away", 9.0), "slow": None})
    assert (sent.counts, sent.batch.waiting) == ((0, 0, 0, 1), waiting)
    assert sent.batch.not_loaded == ([error] if not waiting else [])
    assert (statuses(), OutboxMessage.objects.get().retry_count) == (["pending"], 0)


def test_a_topic_waits_as_long_as_the_longest_of_its_messages() -> None:
    ids = make("a", "b", "c")
    seconds = dict(zip(ids, [0.25, 0.75, 0.5], strict=True))
    sent = Sent(errors={id: RegistryUnavailable("away", wait) for id, wait in seconds.items()})
    assert (sent.batch.waiting, sent.counts) == ({"outbox": 0.75}, (0, 0, 0, 3))


def test_messages_behind_one_that_waits_are_held_and_those_of_other_keys_are_sent() -> None:
    first, _behind, other, *without = make("k", "k", "other", "", "")
    sent = Sent(errors={first: no_schema(), without[0]: no_schema()})
    assert sent.producer.got == [other, without[1]]
    assert sent.counts == (2, 0, 0, 3)
    assert statuses() == ["pending", "pending", "published", "pending", "published"]


@pytest.mark.parametrize(("on_dead", "sent_ids"), [("continue", 2), ("hold", 1)])
def test_messages_behind_one_that_can_never_be_encoded_are_held_if_that_is_asked_for(
    on_dead: str, sent_ids: int
) -> None:
    first, behind, other = make("k", "k", "other")
    with outbox_settings(ON_DEAD=on_dead):
        sent = Sent(errors={first: ValueError("no")})
    assert sent.producer.got == [behind, other][-sent_ids:]
    assert sent.counts == (sent_ids, 0, 1, 2 - sent_ids)


# Results


def test_only_what_is_before_a_failure_in_its_key_counts_as_published() -> None:
    before, failing, _behind, other = make("k", "k", "k", "other")
    sent = Sent({failing: Failed("not now")})
    assert (sent.counts, statuses()) == ((2, 1, 0, 0), ["published", "pending", "pending", "published"])
    assert sent.batch.acknowledged == [(before, 1, 0, 100 + before), (other, 1, 0, 100 + other)]
    assert sent.batch.written == {"outbox"}


@pytest.mark.parametrize(
    ("on_dead", "ordering", "published"), [("continue", "key", 2), ("hold", "key", 1), ("hold", "none", 2)]
)
def test_what_is_behind_a_refused_one_is_held_if_that_is_asked_for(on_dead: str, ordering: str, published: int) -> None:
    refused, _behind, _other = make("k", "k", "other")
    with outbox_settings(ON_DEAD=on_dead, ORDERING=ordering):
        sent = Sent({refused: Refused("too large")})
    assert sent.counts == (published, 0, 1, 0)


def test_messages_without_a_key_hold_nothing_back() -> None:
    failing, second_failing, _last = make("", "", "")
    sent = Sent({failing: Failed("not now"), second_failing: Failed("not now")})
    assert sent.counts == (1, 2, 0, 0)


def test_a_topic_that_fails_is_no_fault_of_its_messages() -> None:
    first, second, _other = *make("k", "l"), *make("k", topic="another")
    worse = TopicTrouble("no leader of partition 1")
    sent = Sent({first: NO_LEADER, second: worse})
    assert sent.counts == (1, 0, 0, 0)
    assert (sent.batch.faults, sent.batch.written) == ({"outbox": NO_LEADER}, {"another"})
    assert OutboxMessage.objects.get(id=first).retry_count == 0


def test_messages_of_a_partition_that_is_away_are_held_with_those_behind_them() -> None:
    away, behind, _other = make("k", "k", "other")
    sent = Sent({away: AWAY})
    assert (sent.counts, sent.batch.faults) == ((1, 0, 0, 0), {})
    assert (sent.batch.held_ids, sent.batch.held_topics) == ({away}, {"outbox"})
    assert OutboxMessage.objects.get(id=away).retry_count == 0
    assert OutboxMessage.objects.get(id=behind).status == "pending"


def test_an_empty_batch_asks_the_broker_for_nothing() -> None:
    sent = Sent()
    assert (sent.counts, sent.producer.got) == ((0, 0, 0, 0), [])


# What is told, after the commit


@pytest.mark.parametrize(
    ("tries", "answer", "level", "text", "metric"),
    [
        (0, Failed("not now"), logging.WARNING, "could not be sent and is pending: not now", ("failed", False)),
        (19, Failed("not now"), logging.ERROR, "could not be sent and is dead: not now", ("failed", True)),
        (0, Refused("too large"), logging.ERROR, "is dead, as it can never be sent: too large", ("dead", None)),
    ],
)
def test_a_failure_is_logged_and_counted(
    tries: int,
    answer: SendResult,
    level: int,
    text: str,
    metric: tuple[str, bool | None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[tuple[str, bool | None]] = []

    def hear(name: str) -> Callable[..., None]:
        def listen(message: Any, reason: str, *, using: str, final: bool | None = None) -> None:
            assert (message.id, reason, using) == (id, getattr(answer, "reason", ""), "default")
            heard.append((name, final))

        return listen

    for name in ("failed", "dead"):
        monkeypatch.setattr(instrumentation, name, hear(name))
    (id,) = make("k", retry_count=tries)
    for function in Sent({id: answer}).batch.after_commit:
        function()
    (record,) = caplog.records
    assert record.getMessage() == f"Message {id} (order.created) {text}"
    assert (record.levelno, record.__dict__["action"], record.__dict__["message_id"]) == (level, metric[0], id)
    assert heard == [metric]
