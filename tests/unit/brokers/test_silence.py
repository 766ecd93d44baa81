"""Brokers that do not answer, and the partitions that wait for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import pytest

from django_outbox.brokers.base import (
    Acknowledged,
    Record,
    SendResult,
    TopicTrouble,
)
from django_outbox.brokers.calls import Patience
from django_outbox.brokers.diagnosis import Access
from django_outbox.brokers.partitioner import murmur2, partition_of
from django_outbox.brokers.producer import BatchProducer
from django_outbox.brokers.silence import (
    HOLD_SECONDS,
    LATER_LOOK_SECONDS,
    SILENCE_SECONDS,
    BatchPatience,
    Replicas,
    SilentBrokers,
    address_of,
)
from django_outbox.brokers.tls import TLS
from django_outbox.brokers.url import parse_url
from django_outbox.brokers.waiting import NOTHING_WAITS, PartitionTrouble
from django_outbox.exceptions import BrokerUnavailable
from tests.support.brokers.records import SECONDS
from tests.support.clock import Clock
from tests.support.processes import wait_until

A, B, C = "a:9092", "b:9092", "c:9092"
TOPIC = "topic"
KEYS = [next(str(n).encode() for n in range(1000) if partition_of(str(n).encode(), 3) == wanted) for wanted in range(3)]


def replicas(*addresses: str) -> Replicas:
    """A partition that the first of these brokers leads."""
    return Replicas(addresses[0] if addresses else None, frozenset(addresses))


class Cluster:
    """Three brokers, and a topic with a partition on each two of them."""

    def __init__(self) -> None:
        self.clock = Clock(1000.0)
        self.away: set[str] = set()
        self.layout = {0: replicas(A, B), 1: replicas(B, C), 2: replicas(C, A)}
        self.asked: list[set[str]] = []
        self.is_reachable = True
        self.silence = SilentBrokers(self.look_up, lambda address: address not in self.away, self.clock)
        self.look_up([TOPIC], 1.0)

    def look_up(self, topics: Collection[str], seconds: float) -> None:
        self.asked.append(set(topics))
        if not self.is_reachable:
            raise BrokerUnavailable("no answer")
        self.silence.record({TOPIC: self.layout})

    @property
    def waiting(self) -> list[int]:
        waiting = self.silence.waiting()
        assert bool(waiting.partitions) == bool(waiting.reasons)
        return sorted(place.partition for place in waiting.partitions)

    def let_look(self) -> None:
        """Let the next question of the background be asked and answered."""
        self.wait_for_look()
        self.clock.now += LATER_LOOK_SECONDS
        self.silence.waiting()
        self.wait_for_look()

    def wait_for_look(self) -> None:
        wait_until(lambda: self.silence._look is None or self.silence._look.is_done)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_partitions_wait_that_a_silent_broker_leads_or_follows(cluster: Cluster) -> None:
    assert cluster.silence.waiting() is NOTHING_WAITS
    cluster.away = {C}
    assert cluster.silence.examine([TOPIC])
    assert cluster.waiting == [1, 2]
    assert cluster.silence.waiting().reasons == {TOPIC: "c:9092 does not answer, which partitions 1, 2 need"}
    assert cluster.silence.waiting().topics == frozenset()
    assert cluster.silence.answering == [A, B]
    assert cluster.silence.is_silent(C)


def test_a_topic_waits_of_which_each_partition_needs_the_silent_broker(cluster: Cluster) -> None:
    cluster.layout = {0: replicas(A, B, C), 1: replicas(B, C, A)}
    cluster.away = {C}
    cluster.look_up([TOPIC], 1.0)
    assert cluster.silence.examine([TOPIC])
    assert cluster.silence.waiting().topics == {TOPIC}


@pytest.mark.parametrize("away", [set(), {A, B, C}], ids=["none", "all"])
def test_no_partition_waits_if_no_broker_or_each_is_silent(cluster: Cluster, away: set[str]) -> None:
    cluster.away = away
    assert not cluster.silence.examine([TOPIC])
    assert cluster.silence.waiting() is NOTHING_WAITS
    assert cluster.silence.answering == []


def test_nothing_is_known_of_topics_that_were_not_looked_up(cluster: Cluster) -> None:
    cluster.away = {C}
    assert not cluster.silence.examine(["other"])


def test_partitions_wait_no_longer_once_the_cluster_has_replaced_the_broker(cluster: Cluster) -> None:
    cluster.away = {C}
    cluster.silence.examine([TOPIC])
    cluster.layout = {0: replicas(A, B), 1: replicas(B), 2: replicas(A)}
    cluster.let_look()
    assert cluster.waiting == []


def test_the_leaders_that_the_cluster_has_now_are_asked_for_with_the_silence(cluster: Cluster) -> None:
    """As long before as the topic was looked up, others may have led its partitions."""
    cluster.layout = {0: replicas(B, A), 1: replicas(A, B), 2: replicas(A)}
    cluster.away = {C}
    assert cluster.silence.examine([TOPIC]), "a client may still send to the old leader"
    assert cluster.waiting == []


def test_a_broker_that_a_client_may_still_know_is_asked_again(cluster: Cluster) -> None:
    cluster.away = {C}
    cluster.silence.examine([TOPIC])
    cluster.layout = {0: replicas(A, B), 1: replicas(B), 2: replicas(A)}
    cluster.let_look()
    assert cluster.silence.examine([TOPIC])


def test_a_broker_that_the_cluster_has_replaced_long_ago_is_forgotten(cluster: Cluster) -> None:
    cluster.away = {C}
    cluster.silence.examine([TOPIC])
    cluster.layout = {0: replicas(A, B), 1: replicas(B), 2: replicas(A)}
    cluster.let_look()
    assert cluster.silence.is_silent(C)
    cluster.clock.now += HOLD_SECONDS[0]
    cluster.let_look()
    assert not cluster.silence.is_silent(C)
    assert cluster.silence.waiting() is NOTHING_WAITS


def test_partitions_wait_no_longer_once_the_broker_answers(cluster: Cluster) -> None:
    cluster.away = {C}
    cluster.silence.examine([TOPIC])
    cluster.let_look()
    assert cluster.waiting == [1, 2]
    cluster.away = set()
    cluster.let_look()
    assert cluster.silence.waiting() is NOTHING_WAITS
    assert not cluster.silence.is_silent(C)


def test_a_broker_that_is_in_sync_again_and_fails_again_is_noticed(cluster: Cluster) -> None:
    """Nothing looks up the topics after all partitions can be written to."""
    cluster.away = {C}
    cluster.silence.examine([TOPIC])
    before, cluster.layout = cluster.layout, {0: replicas(A, B), 1: replicas(B), 2: replicas(A)}
    cluster.away = set()
    cluster.let_look()
    assert cluster.silence.waiting() is NOTHING_WAITS
    cluster.layout = before

    cluster.away = {C}
    assert cluster.silence.examine([TOPIC])
    assert cluster.waiting == [1, 2]


def test_partitions_are_tried_after_a_while_though_the_broker_is_silent_and_then_wait_twice_as_long(
    cluster: Cluster,
) -> None:
    cluster.away = {C}
    first, longest = HOLD_SECONDS
    hold = first
    for _ in range(5):
        assert cluster.silence.examine([TOPIC])
        cluster.silence.examine([TOPIC])  # by a batch that was sent before: not another try
        cluster.clock.now += hold - 1
        assert cluster.waiting == [1, 2]
        cluster.clock.now += 1
        assert cluster.waiting == []
        hold = min(2 * hold, longest)
    assert hold == longest


def test_a_partition_without_a_leader_waits_until_it_has_one(cluster: Cluster) -> None:
    cluster.layout = {0: replicas(A), 1: replicas(), 2: replicas(C)}
    cluster.look_up([TOPIC], 1.0)
    assert cluster.waiting == [1]
    assert cluster.silence.waiting().reasons == {TOPIC: "no leader of partition 1"}
    cluster.layout = {0: replicas(A), 1: replicas(A), 2: replicas(C)}
    cluster.let_look()
    assert cluster.waiting == []


def test_a_cluster_that_does_not_answer_changes_nothing(cluster: Cluster) -> None:
    cluster.away = {C}
    cluster.silence.examine([TOPIC])
    cluster.is_reachable = False
    cluster.let_look()
    assert cluster.waiting == [1, 2]


def test_a_deleted_topic_is_forgotten(cluster: Cluster) -> None:
    cluster.layout = {0: replicas(A), 1: replicas()}
    cluster.look_up([TOPIC], 1.0)
    cluster.silence.record({TOPIC: {}})
    assert cluster.silence.waiting() is NOTHING_WAITS
    assert cluster.silence.number_of(TOPIC) == 0


def test_the_address_of_a_broker_is_written_as_in_a_url() -> None:
    assert address_of("kafka", 9092) == "kafka:9092"
    assert address_of("::1", 9092) == "[::1]:9092"


@pytest.mark.parametrize(
    "key", [b"", b"a", b"ab", b"abc", b"abcd", b"customer-17", "Ü\U0001f600".encode(), bytes(range(256))]
)
def test_a_key_is_hashed_as_by_the_clients(key: bytes) -> None:
    from kafka.partitioner.default import murmur2 as of_client

    assert murmur2(key) == of_client(key) & 0xFFFFFFFF


# Waiting for the answers to a batch


class Examination:
    """Ends when a test lets it."""

    def __init__(self) -> None:
        self.number = 0
        self.found = threading.Event()
        self.result = True
        self.ended = 0

    def __call__(self) -> bool:
        self.number += 1
        assert self.found.wait(SECONDS)
        self.ended += 1
        return self.result


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(1000.0)
    monkeypatch.setattr("django_outbox.brokers.silence.time.monotonic", clock)
    return clock


def patience_with(clock: Clock, examine: Callable[[], bool]) -> BatchPatience:
    return BatchPatience(clock.now + SECONDS, lambda: False, examine)


def test_brokers_are_examined_after_a_silence_and_waiting_ends_if_some_are_silent(clock: Clock) -> None:
    examine = Examination()
    patience = patience_with(clock, examine)
    assert not patience.is_over(5)
    clock.now += SILENCE_SECONDS - 0.01
    assert not patience.is_over(5)
    assert examine.number == 0
    clock.now += 0.01
    assert not patience.is_over(5), "not before it is known"
    examine.found.set()
    wait_until(lambda: patience.is_over(5))
    assert patience.met_silence
    assert examine.number == 1


def test_no_broker_is_examined_while_answers_come(clock: Clock) -> None:
    examine = Examination()
    patience = patience_with(clock, examine)
    for left in range(10, 0, -1):
        clock.now += 0.9 * SILENCE_SECONDS
        assert not patience.is_over(left)
    assert examine.number == 0


def test_waiting_goes_on_if_all_brokers_answer_and_they_are_examined_again(clock: Clock) -> None:
    examine = Examination()
    examine.result = False
    examine.found.set()
    patience = patience_with(clock, examine)
    for number in range(1, 4):
        assert not patience.is_over(5)
        clock.now += SILENCE_SECONDS
        assert not patience.is_over(5)
        wait_until(lambda: patience._call is not None and patience._call.is_done)
        assert not patience.is_over(5)
        assert examine.number == number
    assert not patience.met_silence


def test_answers_that_come_meanwhile_are_still_taken(clock: Clock) -> None:
    examine = Examination()
    patience = patience_with(clock, examine)
    patience.is_over(5)
    clock.now += SILENCE_SECONDS
    assert not patience.is_over(5)
    assert not patience.is_over(4)
    examine.found.set()
    wait_until(lambda: examine.ended)
    assert not patience.is_over(3)
    clock.now += SILENCE_SECONDS
    wait_until(lambda: patience.is_over(3))
    assert examine.number == 1


def test_waiting_stays_over_though_an_answer_comes(clock: Clock) -> None:
    """A client that waits for each record by itself asks for each of them."""
    examine = Examination()
    examine.found.set()
    patience = patience_with(clock, examine)
    patience.is_over(5)
    clock.now += SILENCE_SECONDS
    wait_until(lambda: patience.is_over(5))
    assert patience.is_over(4)
    assert patience.is_over(3)


# Batches


class Partitioned(BatchProducer):
    """Gets an acknowledgement for each record, except for silent partitions."""

    def __init__(self, cluster: Cluster, silent: Iterable[int] = ()) -> None:
        access = Access(parse_url("kafka://a:9092"), "PLAINTEXT", TLS(), lambda: False)
        super().__init__(access, lambda topics, seconds: {}, cluster.silence)
        self.silent = set(silent)
        self.taken: list[int] = []
        self.is_closed = False

    def _send_once(
        self, records: Sequence[Record], results: list[SendResult | None], chosen: Iterable[int], patience: Patience
    ) -> set[int]:
        for index in chosen:
            topic, key, *_ = records[index]
            partition = self._choose(topic, key) if key is None else super()._partition_of(topic, key)
            assert partition is not None
            self.taken.append(partition)
            if partition not in self.silent:
                results[index] = Acknowledged(partition, len(self.taken))
        while not all(results) and not patience.is_over(results.count(None)):
            time.sleep(0.01)
        self._usable = all(results)
        return set()

    def close(self) -> None:
        self.is_closed = True


class OwnPartitioner(Partitioned):
    """The client's choice of partitions is not known."""

    def _partition_of(self, topic: str, key: bytes) -> int | None:
        return None


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_outbox.brokers.silence.SILENCE_SECONDS", 0.0)


def records(*keys: bytes | None) -> list[Record]:
    return [Record(TOPIC, key, b"") for key in keys]


def kinds(results: Sequence[SendResult]) -> list[type[SendResult]]:
    return [type(result) for result in results]


@pytest.mark.usefixtures("at_once")
def test_a_batch_is_abandoned_for_the_partitions_of_a_silent_broker_only(cluster: Cluster) -> None:
    cluster.away = {C}
    producer = Partitioned(cluster, silent=[1, 2])
    results = producer.send(records(*KEYS, KEYS[0]), SECONDS)
    assert kinds(results) == [Acknowledged, PartitionTrouble, PartitionTrouble, Acknowledged]
    assert results[1] == PartitionTrouble("c:9092 does not answer, which partitions 1, 2 need")
    assert not producer.usable
    assert producer.is_closed, "nothing of it may be sent later"


@pytest.mark.usefixtures("at_once")
def test_a_batch_without_any_answer_is_abandoned_too_while_other_brokers_answer(cluster: Cluster) -> None:
    """Such as when each partition has a replica on the broker."""
    cluster.away = {C}
    producer = Partitioned(cluster, silent=[0, 1, 2])
    assert kinds(producer.send(records(*KEYS), SECONDS)) == [PartitionTrouble] * 3
    assert producer.is_closed


@pytest.mark.usefixtures("at_once")
def test_a_topic_waits_whose_abandoned_records_have_partitions_that_only_the_client_knows(cluster: Cluster) -> None:
    """They would end each batch, and so hold up other topics."""
    cluster.away = {C}
    producer = OwnPartitioner(cluster, silent=[1, 2])
    reason = "c:9092 does not answer, which partitions 1, 2 need"
    results = producer.send(records(*KEYS), SECONDS)
    assert results[1:] == [TopicTrouble(reason), TopicTrouble(reason)]
    assert isinstance(results[0], Acknowledged)


@pytest.mark.usefixtures("at_once")
def test_a_batch_waits_for_its_deadline_while_all_brokers_answer(cluster: Cluster) -> None:
    producer = Partitioned(cluster, silent=[1])
    results = producer.send(records(*KEYS), 0.3)
    assert kinds(results) == [Acknowledged, TopicTrouble, Acknowledged]


def test_records_for_partitions_that_wait_are_not_sent_and_all_others_are(cluster: Cluster) -> None:
    cluster.away = {C}
    cluster.silence.examine([TOPIC])
    producer = Partitioned(cluster)
    results = producer.send(records(*KEYS, *KEYS), SECONDS)
    assert kinds(results) == [Acknowledged, PartitionTrouble, PartitionTrouble] * 2
    assert producer.taken == [0, 0]
    assert producer.usable


def test_records_without_a_key_go_to_partitions_that_do_not_wait(cluster: Cluster) -> None:
    cluster.layout = {0: replicas(A, B), 1: replicas(B, C), 2: replicas(B, A)}
    cluster.look_up([TOPIC], 1.0)
    cluster.away = {C}
    cluster.silence.examine([TOPIC])
    producer = Partitioned(cluster)
    assert kinds(producer.send(records(*[None] * 10), SECONDS)) == [Acknowledged] * 10
    assert set(producer.taken) == {0, 2}


def test_records_without_a_key_wait_if_all_partitions_do(cluster: Cluster) -> None:
    cluster.layout = {0: replicas(A, C), 1: replicas(C)}
    cluster.look_up([TOPIC], 1.0)
    cluster.away = {C}
    cluster.silence.examine([TOPIC])
    producer = Partitioned(cluster)
    assert kinds(producer.send(records(None, KEYS[0]), SECONDS)) == [PartitionTrouble] * 2
    assert producer.taken == []


def test_a_broker_that_answers_again_within_a_batch_does_not_split_a_key(cluster: Cluster) -> None:
    """A later record of a key must not be sent when an earlier one was not."""
    cluster.away = {C}
    cluster.silence.examine([TOPIC])

    def made() -> Iterator[Record]:
        for number in range(1000):
            if number == 500:
                cluster.away.clear()
                cluster.let_look()
            yield Record(TOPIC, KEYS[1], b"")

    producer = Partitioned(cluster)
    assert kinds(producer.send(made(), SECONDS)) == [PartitionTrouble] * 1000
    assert kinds(producer.send(records(KEYS[1]), SECONDS)) == [Acknowledged]
