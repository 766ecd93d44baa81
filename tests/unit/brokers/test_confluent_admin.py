"""Asking a cluster with confluent-kafka: one broker that hangs is not waited for in vain."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from django_outbox.brokers import diagnosis
from django_outbox.brokers.base import TopicMissing, TopicPartition
from django_outbox.brokers.confluent import admin
from django_outbox.brokers.confluent import broker as confluent
from django_outbox.brokers.confluent.admin import ConfluentAdmin
from django_outbox.brokers.confluent.broker import ConfluentBroker
from django_outbox.brokers.confluent.client import Faults
from django_outbox.brokers.diagnosis import Access
from django_outbox.brokers.silence import Replicas
from django_outbox.brokers.tls import TLS
from django_outbox.brokers.url import parse_url
from django_outbox.conf import BrokerSettings
from django_outbox.exceptions import NoAnswer
from tests.support.clock import Clock

HANGS, ANSWERS = "127.0.0.1:1", "127.0.0.1:2"


class Client:
    """librdkafka's choice is the broker that hangs, as long as it knows of it."""

    asked: list[str]

    def __init__(self, options: dict[str, Any], **more: Any) -> None:
        assert not options["allow.auto.create.topics"], "a question about a topic would create it"
        self._hosts = options["bootstrap.servers"]

    def describe_topics(self, topics: Any, **options: Any) -> dict[str, Future[Any]]:
        self.asked.append(self._hosts)
        answer: Future[Any] = Future()
        if HANGS not in self._hosts:
            answer.set_exception(KafkaException(KafkaError(3)))  # an answer, too
        return {"orders": answer}

    def list_topics(self, topic: str, timeout: float) -> Any:
        """What any broker says."""
        self.asked.append(f"any of {self._hosts}")
        nodes = {number: SimpleNamespace(id=number, host="127.0.0.1", port=number) for number in (1, 2)}
        partitions = {
            0: SimpleNamespace(id=0, leader=2, isrs=[2, 1]),
            1: SimpleNamespace(id=1, leader=2, isrs=[2, 3]),
            2: SimpleNamespace(id=2, leader=-1, isrs=[3]),
        }
        missing = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART) if topic == "missing" else None
        described = SimpleNamespace(error=missing, partitions=partitions)
        return SimpleNamespace(brokers=nodes, topics={topic: described})

    def poll(self, timeout: float) -> None: ...

    def __exit__(self, *error: object) -> None: ...


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> ConfluentBroker:
    Client.asked = []
    monkeypatch.setattr(confluent, "AdminClient", Client)
    monkeypatch.setattr(diagnosis, "WORTH_EXPLAINING_SECONDS", 0.0)
    return ConfluentBroker(BrokerSettings(url=f"kafka://{HANGS},{ANSWERS}"))


def test_a_question_that_one_broker_leaves_open_is_put_to_those_that_answer(
    broker: ConfluentBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Access, "answering", lambda self: [ANSWERS])
    assert broker.topic_faults(["orders"], 0.2).keys() == {"orders"}
    assert Client.asked == [f"{HANGS},{ANSWERS}"] * 2 + [ANSWERS]


def test_without_a_broker_that_answers_there_is_nobody_else_to_ask(
    broker: ConfluentBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Access, "answering", lambda self: [])
    with pytest.raises(NoAnswer):
        broker.topic_faults(["orders"], 0.2)
    assert Client.asked == [f"{HANGS},{ANSWERS}"] * 2


def test_any_broker_is_asked_about_topics_while_one_is_known_to_be_silent(
    broker: ConfluentBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library would wait for the controller, which may be the silent one."""
    monkeypatch.setattr(Access, "answers", lambda self, host: host == ANSWERS)
    broker._silence.record({"orders": {0: Replicas(HANGS, frozenset([HANGS, ANSWERS]))}})
    assert broker._silence.examine(["orders"])
    Client.asked.clear()

    assert broker.topic_faults(["orders", "missing"], 0.2) == {"missing": TopicMissing()}

    assert Client.asked == [f"any of {ANSWERS}"] * 2
    waiting = broker.waiting
    assert waiting.partitions == {TopicPartition("orders", 0), TopicPartition("orders", 2)}
    assert waiting.topics == frozenset()


def test_all_topics_share_one_deadline_while_a_broker_is_known_to_be_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay asks in its transaction."""
    clock = Clock(1000.0)
    monkeypatch.setattr(admin, "time", SimpleNamespace(monotonic=clock))

    class Slow(Client):
        def list_topics(self, topic: str, timeout: float) -> Any:
            clock.now += timeout
            if timeout <= 0:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            return super().list_topics(topic, timeout)

    Client.asked = []
    client: Any = Slow({"bootstrap.servers": ANSWERS, "allow.auto.create.topics": False})
    faults = Faults(Access(parse_url(f"kafka://{ANSWERS}"), "PLAINTEXT", TLS(), lambda: False))
    asking = ConfluentAdmin(client, faults, 2.0, 1, asks_any=True)
    with pytest.raises(NoAnswer):
        asking.describe_topics([f"topic-{number}" for number in range(20)])
    assert clock.now <= 1002.0
