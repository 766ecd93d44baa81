"""The first record of each partition goes alone, through confluent-kafka: what waits for it, and for how long."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

import pytest
from confluent_kafka import KafkaError, Message

from django_outbox.brokers.base import Acknowledged, Record, Refused, TopicTrouble
from django_outbox.brokers.confluent.client import Faults
from django_outbox.brokers.confluent.first_records import FirstRecords
from django_outbox.brokers.confluent.producer import ConfluentBrokerProducer
from django_outbox.brokers.diagnosis import Access
from django_outbox.brokers.partitioner import partition_of
from django_outbox.brokers.silence import Replicas, SilentBrokers
from django_outbox.brokers.tls import TLS
from django_outbox.brokers.url import parse_url
from tests.support.brokers.records import SECONDS
from tests.support.clock import Clock

ACCESS = Access(parse_url("kafka://broker:9092"), "PLAINTEXT", TLS(), lambda: False)
Report = Callable[[KafkaError | None, Any], None]
KEYS = {partition_of(b"%d" % number, 3): b"%d" % number for number in range(20)}
"""A key for each of three partitions."""
CLOCK = Clock(1000.0)


@pytest.fixture(autouse=True)
def waits_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let time pass only while a client waits."""
    monkeypatch.setattr(time, "monotonic", CLOCK)


class Client:
    """Stands for a ``confluent_kafka.Producer``; answers when it is flushed.

    Errors are the answers to some values. Without an answer stays what ``hangs``.
    """

    def __init__(
        self, errors: Mapping[str, int] | None = None, *, room: int = 1000, hangs: Sequence[bytes] = ()
    ) -> None:
        self.rounds: list[list[bytes]] = [[]]
        """Values that were on their way at the same time."""
        self.sent: list[tuple[str, int]] = []
        self.closed = False
        self._room = room
        self._hangs = hangs
        self._errors = errors or {}
        self._waiting: list[tuple[str, int, bytes, Report]] = []

    def list_topics(self, topic: str, timeout: float) -> None:
        """Connects."""

    def __len__(self) -> int:
        return len(self._waiting)

    def produce(
        self,
        topic: str,
        value: bytes,
        key: bytes | None,
        partition: int = -1,
        *,
        on_delivery: Report,
        headers: object,
    ) -> None:
        if len(self._waiting) >= self._room:
            raise BufferError
        if self._errors.get(value.decode()) == KafkaError._BAD_MSG:
            raise TypeError("why")
        place = partition_of(key, 3) if key is not None else partition
        self.rounds[-1].append(value)
        self.sent.append((topic, place))
        self._waiting.append((topic, place, value, on_delivery))

    def flush(self, timeout: float) -> int:
        if self.closed:
            raise RuntimeError("Producer has been closed")
        answered = [each for each in self._waiting if each[2] not in self._hangs]
        self._waiting = [each for each in self._waiting if each[2] in self._hangs]
        self.rounds.append([])
        for topic, place, value, report in answered:
            code = self._errors.get(value.decode())
            if code is None:
                report(None, Message(topic=topic, partition=place, offset=1))
            else:
                report(KafkaError(code, "why"), None)
        if self._waiting:
            CLOCK.now += timeout
        return len(self._waiting)

    def poll(self, timeout: float) -> int:
        return self.flush(timeout)

    def purge(self, **which: bool) -> None:
        waiting, self._waiting = self._waiting, []
        for _, _, _, report in waiting:
            report(KafkaError(KafkaError._PURGE_INFLIGHT), None)

    def close(self) -> None:
        self.closed = True


def producer_of(client: Any, faults: Faults | None = None, **options: bool) -> ConfluentBrokerProducer:
    silence = SilentBrokers(lambda topics, seconds: None, lambda address: True)
    silence.record({topic: dict.fromkeys(range(3), Replicas("a:9092")) for topic in ("topic", "other")})
    return ConfluentBrokerProducer(client, faults or Faults(ACCESS), lambda topics, seconds: {}, silence, **options)


def record(value: str, partition: int | None = 0, topic: str = "topic") -> Record:
    return Record(topic, None if partition is None else KEYS[partition], value.encode())


def rounds_of(client: Client) -> list[list[bytes]]:
    return [each for each in client.rounds if each]


def test_the_others_of_a_partition_go_when_the_first_one_is_in_the_log() -> None:
    client = Client()
    producer = producer_of(client)
    records = [record("a0"), record("b0", 1), record("a1"), record("a2"), record("b1", 1), record("c0", 2)]
    assert {type(result) for result in producer.send(records, SECONDS)} == {Acknowledged}
    assert rounds_of(client) == [[b"a0", b"b0", b"c0"], [b"a1", b"a2", b"b1"]]
    producer.send([record("a3"), record("a4")], SECONDS)
    assert rounds_of(client)[2:] == [[b"a3", b"a4"]]


def test_a_partition_that_takes_no_record_yet_holds_back_no_other() -> None:
    client = Client(hangs=[b"a0"])
    records = [record("a0"), record("a1"), *(record(f"{n}", 1, "other") for n in range(3)), record("b0", 1)]
    results = producer_of(client).send(records, 0.3)
    assert rounds_of(client) == [[b"a0", b"0", b"b0"], [b"1", b"2"]]
    assert [type(result) for result in results] == [TopicTrouble] * 2 + [Acknowledged] * 4


@pytest.mark.parametrize(
    ("code", "result"),
    [
        (KafkaError.MSG_SIZE_TOO_LARGE, Refused("why")),
        (KafkaError._BAD_MSG, Refused("It cannot be encoded: why")),
        (KafkaError.TOPIC_EXCEPTION, Refused("why")),
    ],
)
def test_after_one_that_is_refused_itself_the_next_one_goes_first(code: int, result: object) -> None:
    client = Client({"a0": code})
    results = producer_of(client).send([record(f"a{n}") for n in range(4)], SECONDS)
    assert [each for each in rounds_of(client) if each != [b"a0"]] == [[b"a1"], [b"a2", b"a3"]]
    assert results[0] == result
    assert {type(each) for each in results[1:]} == {Acknowledged}


def test_what_comes_after_one_whose_topic_is_in_trouble_is_not_sent() -> None:
    errors = {"a0": KafkaError.NOT_ENOUGH_REPLICAS}
    client = Client(errors)
    producer = producer_of(client)
    results = producer.send([record("a0"), record("a1"), record("b0", 1), record("b1", 1)], SECONDS)
    errors.clear()
    assert rounds_of(client) == [[b"a0", b"b0"], [b"b1"]]
    assert results[0] == results[1] == TopicTrouble("why")
    assert {type(each) for each in results[2:]} == {Acknowledged}
    producer.send([record("a0"), record("a1")], SECONDS)
    assert rounds_of(client)[2:] == [[b"a0"], [b"a1"]]


def test_records_without_a_key_go_to_each_new_partition_and_then_to_all() -> None:
    client = Client()
    producer = producer_of(client)
    producer.send([record(f"{n}", None) for n in range(9)], SECONDS)
    assert rounds_of(client)[0] == [b"0", b"1", b"2"]
    assert sorted(client.sent) == [("topic", partition) for partition in range(3) for _ in range(3)]
    producer.send([record("9", None)], SECONDS)
    assert client.sent[9:] == [("topic", -1)]  # the library chooses


def test_records_without_a_key_go_on_while_a_new_partition_takes_none() -> None:
    client = Client(hangs=[b"0"])
    results = producer_of(client).send([record(f"{n}", None) for n in range(9)], 0.3)
    assert rounds_of(client)[0] == [b"0", b"1", b"2"]
    assert [type(each) for each in results] == [TopicTrouble] + [Acknowledged] * 8


def test_records_without_a_key_have_the_result_of_the_first_ones_if_that_is_the_same_everywhere() -> None:
    trouble = dict.fromkeys("012", KafkaError.NOT_ENOUGH_REPLICAS)
    results = producer_of(Client(trouble)).send([record(f"{n}", None) for n in range(5)], SECONDS)
    assert results == [TopicTrouble("why")] * 5


def test_records_without_a_key_go_first_themselves_if_the_first_ones_are_refused() -> None:
    client = Client(dict.fromkeys("012", KafkaError.TOPIC_EXCEPTION))
    results = producer_of(client).send([record(f"{n}", None) for n in range(9)], SECONDS)
    assert results[:3] == [Refused("why")] * 3
    assert {type(each) for each in results[3:]} == {Acknowledged}
    assert rounds_of(client) == [[b"0", b"1", b"2"], [b"3", b"4", b"5"], [b"6", b"7", b"8"]]


def test_a_library_without_room_is_waited_for() -> None:
    client = Client(room=1)
    records = [record(f"{n}", n % 3) for n in range(9)]
    assert {type(result) for result in producer_of(client).send(records, SECONDS)} == {Acknowledged}
    assert sorted(value for each in client.rounds for value in each) == [each.value for each in records]


def test_a_library_without_room_until_the_deadline_ends_the_batch() -> None:
    client = Client(room=1, hangs=[b"a1"])
    results = producer_of(client).send([record(f"a{n}") for n in range(3)], 0.5)
    assert [type(result) for result in results] == [Acknowledged, TopicTrouble, TopicTrouble]
    assert client.closed


class OneByOne(Client):
    """Answers one record each time it is flushed."""

    def __init__(self, errors: Mapping[str, int] | None = None, before_the_second: Callable[[], object] = int) -> None:
        super().__init__(errors)
        self._before = iter([int, before_the_second])

    def flush(self, timeout: float) -> int:
        CLOCK.now += timeout
        next(self._before, int)()
        others, self._waiting = self._waiting[1:], self._waiting[:1]
        super().flush(0)
        self._waiting += others
        return len(self._waiting)


def test_a_process_that_stops_waits_for_what_was_held_back_as_long_as_answers_come() -> None:
    stopping = Access(parse_url("kafka://broker:9092"), "PLAINTEXT", TLS(), lambda: True)
    producer = producer_of(OneByOne(), Faults(stopping))
    results = producer.send([record("b0", 1), *(record(f"a{n}") for n in range(9))], SECONDS)
    assert {type(result) for result in results} == {Acknowledged}


def test_a_broker_that_answers_a_first_record_is_forgiven() -> None:
    faults = Faults(ACCESS)
    client = OneByOne(before_the_second=lambda: faults(KafkaError(KafkaError._AUTHENTICATION, "why")))
    results = producer_of(client, faults).send([record("b0", 1), *(record(f"a{n}") for n in range(3))], SECONDS)
    assert {type(result) for result in results} == {Acknowledged}


def test_the_deadline_ends_a_batch_whose_first_records_are_refused_one_after_the_other() -> None:
    client = OneByOne({f"a{n}": KafkaError.TOPIC_EXCEPTION for n in range(100)})
    started = CLOCK.now
    results = producer_of(client).send([record(f"a{n}") for n in range(100)], 1)
    assert CLOCK.now - started < 5
    assert results[0] == Refused("why")
    assert type(results[99]) is TopicTrouble


def test_the_deadline_ends_a_batch_whose_records_are_refused_together_and_so_sent_alone() -> None:
    client = OneByOne({f"a{n}": KafkaError.MSG_SIZE_TOO_LARGE for n in range(100)})
    started = CLOCK.now
    producer_of(client, own_partitioner=True).send([record(f"a{n}") for n in range(100)], 15)
    assert CLOCK.now - started < 16


def test_a_topic_that_grows_while_its_records_are_taken_keeps_the_order_of_a_key() -> None:
    client = Client()
    producer = producer_of(client)
    key = next(key for key in (b"%d" % n for n in range(99)) if partition_of(key, 3) != partition_of(key, 4) == 3)

    def records() -> Iterator[Record]:
        yield from (Record("topic", key, b"%d" % n) for n in range(200))
        producer._silence.record({"topic": dict.fromkeys(range(4), Replicas("a:9092"))})
        yield Record("topic", key, b"200")

    producer.send(records(), SECONDS)
    assert [len(each) for each in rounds_of(client)] == [1, 200]


def test_records_without_a_key_begin_with_another_partition_each_time() -> None:
    clients = [Client() for _ in range(60)]
    for client in clients:
        producer_of(client).send([record("0", None)], SECONDS)
    assert {client.sent[0] for client in clients} == {("topic", partition) for partition in range(3)}


def test_of_a_partitioner_of_the_project_nothing_is_known() -> None:
    client = Client()
    producer_of(client, own_partitioner=True).send([record("0"), record("1"), record("2", None)], SECONDS)
    assert rounds_of(client) == [[b"0", b"1", b"2"]]
    assert client.sent[-1] == ("topic", -1)


class Partitions(Client):
    """Takes records at random, and keeps them. May refuse the first ones of a partition for a moment, as a new one does.

    If it has taken later ones by then, those that it refused are told to be in the log, without an offset.
    """

    def __init__(self, chance: Random) -> None:
        super().__init__({}, room=chance.choice([1, 3, 1000]))
        self._chance = chance
        self.log: dict[tuple[str, int], list[bytes]] = defaultdict(list)
        self.overtaken = 0

    def flush(self, timeout: float) -> int:
        count = len(self._waiting) if self._chance.random() < 0.7 else self._chance.randint(0, len(self._waiting))
        answered, self._waiting = self._waiting[:count], self._waiting[count:]
        refused: dict[tuple[str, int], list[tuple[bytes, Report]]] = defaultdict(list)
        for topic, partition, value, report in answered:
            place = (topic, partition if partition >= 0 else self._chance.randrange(3))
            if code := self._errors.get(value.decode()):
                report(KafkaError(code, "why"), None)
            elif not self.log[place] and self._chance.random() < 0.3:
                refused[place].append((value, report))
            else:
                for _, overtaken in refused.pop(place, ()):
                    self.overtaken += 1
                    overtaken(None, Message(topic=topic, partition=place[1], offset=-1001))
                self._take(place, value, report)
        for place, others in refused.items():
            for value, report in others:
                self._take(place, value, report)
        return len(self._waiting)

    def _take(self, place: tuple[str, int], value: bytes, report: Report) -> None:
        self.log[place].append(value)
        report(None, Message(topic=place[0], partition=place[1], offset=len(self.log[place]) - 1))


ERRORS = [
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.NOT_ENOUGH_REPLICAS,
    KafkaError._BAD_MSG,
]


@pytest.mark.parametrize("first_goes_alone", [True, False])
def test_what_is_acknowledged_is_in_the_log_in_the_order_of_its_key(
    first_goes_alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not first_goes_alone:
        monkeypatch.setattr(FirstRecords, "renew", lambda *topics: None)
    overtaken = 0
    for seed in range(300):
        chance = Random(seed)
        client = Partitions(chance)
        producer = producer_of(client)
        for batch in range(3):
            records = [
                record(f"{batch}{n:02}", chance.choice([0, 1, 2, None]), chance.choice(["topic", "other"]))
                for n in range(chance.randint(1, 12))
            ]
            client._errors = {
                each.value.decode(): chance.choice(ERRORS) for each in records if each.value and chance.random() < 0.15
            }
            results = producer.send(records, SECONDS)
            assert len(results) == len(records), seed
            taken: dict[tuple[str, bytes | None], list[int]] = defaultdict(list)
            for each, result in zip(records, results, strict=True):
                if isinstance(result, Acknowledged):
                    assert result.offset is not None, seed
                    assert client.log[each.topic, result.partition][result.offset] == each.value, seed
                    taken[each.topic, each.key].append(result.offset)
                else:
                    assert each.value
                    assert each.value.decode() in client._errors or isinstance(result, TopicTrouble), seed
            assert all(offsets == sorted(offsets) for (_, key), offsets in taken.items() if key), seed
        overtaken += client.overtaken
    assert bool(overtaken) is not first_goes_alone
