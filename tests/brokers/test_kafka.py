"""What only the broker of kafka-python can get wrong: outages, errors, threads, options, passwords."""

from __future__ import annotations

import gc
import itertools
import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from kafka import KafkaAdminClient
from kafka import errors as kafka_errors
from kafka.errors import KafkaError
from kafka.protocol.sasl import SaslAuthenticateRequest

from django_outbox.brokers import kafka_subscription
from django_outbox.brokers.base import (
    MISSING_TOPIC,
    Acknowledged,
    Failed,
    Outcome,
    Producer,
    Record,
    Refused,
    Subscription,
    TopicPartition,
    TopicTrouble,
)
from django_outbox.brokers.kafka import KafkaBroker
from django_outbox.brokers.kafka_producer import KafkaBrokerProducer
from django_outbox.conf import BrokerSettings
from django_outbox.exceptions import BrokerUnavailable, TopicNotCreated
from tests.brokers.proxy import Proxy
from tests.brokers.records import IMPATIENT, SECONDS, join, make_topic, numbered, places, read, send
from tests.brokers.services import BEHIND_PROXY, OWN, PASSWORD, USER, ApacheKafkaWithLogin
from tests.helpers import wait_until
from tests.services.base import Service
from tests.services.process import free_port

CONNECTING: dict[str, Callable[[KafkaBroker], object]] = {
    "producer": lambda broker: broker.producer(SECONDS),
    "subscribe": lambda broker: broker.subscribe(["topic"], "group"),
    "missing_topics": lambda broker: broker.missing_topics(["topic"]),
    "create_topics": lambda broker: broker.create_topics(["topic"], partitions=1, replication=1),
}
connecting = pytest.mark.parametrize("connect", [pytest.param(way, id=name) for name, way in CONNECTING.items()])


def kafka_broker(url: str, **options: Any) -> KafkaBroker:
    return KafkaBroker(BrokerSettings(url=url, **{"consumer_options": IMPATIENT, **options}))


def read_all(broker: KafkaBroker, topic: str, count: int) -> list[bytes | None]:
    """The values of all records of a topic, of which there must be `count`."""
    subscription = broker.subscribe([topic], f"{topic}-{count}")
    try:
        return [record.value for record in read(subscription, count)]
    finally:
        subscription.close()


def seconds_until(error: type[Exception], call: Callable[[], object]) -> tuple[float, str]:
    """Call, insist on the error, and return how long that took and what it says."""
    started = time.monotonic()
    with pytest.raises(error) as raised:
        call()
    return time.monotonic() - started, str(raised.value)


@pytest.fixture
def own_broker(pytestconfig: pytest.Config) -> Iterator[Service]:
    """A broker of the test's own, which may be taken away."""
    with OWN[pytestconfig.option.kafka]() as service:
        yield service


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with Proxy() as proxy:
        yield proxy


@pytest.fixture(scope="module")
def service_behind_proxy(pytestconfig: pytest.Config, proxy: Proxy) -> Iterator[Service]:
    with BEHIND_PROXY[pytestconfig.option.kafka](proxy) as service:
        proxy.target = service.port
        yield service


@pytest.fixture
def proxied(proxy: Proxy, service_behind_proxy: Service) -> Iterator[KafkaBroker]:
    """A broker behind a proxy that lets everything through, until it is told otherwise."""
    yield kafka_broker(service_behind_proxy.url)
    proxy.heal()


# Connecting


def test_a_broker_that_cannot_be_reached_is_reported_within_seconds() -> None:
    def try_it(broker: KafkaBroker, connect: Callable[[KafkaBroker], object]) -> None:
        seconds, text = seconds_until(BrokerUnavailable, lambda: connect(broker))
        assert seconds < 6.5
        assert text.startswith(f"{broker.location} cannot be reached (")
        assert text.endswith('): is it running, and is OUTBOX["BROKER"]["URL"] right?')
        assert "\n" not in text

    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(2 * len(CONNECTING)) as pool:
        ports = {"nothing listens": free_port(), "nothing answers": silent.getsockname()[1]}
        brokers = [kafka_broker(f"kafka://127.0.0.1:{port}") for port in ports.values()]
        for done in [pool.submit(try_it, *pair) for pair in itertools.product(brokers, CONNECTING.values())]:
            done.result()


def test_the_reason_of_a_failed_connection_is_told() -> None:
    broker = kafka_broker(f"kafka://127.0.0.1:{free_port()}", options={"bootstrap_timeout_ms": 300})
    with pytest.raises(BrokerUnavailable, match="REFUSED"):
        broker.producer(SECONDS)


@connecting
def test_a_server_that_hangs_in_the_tls_handshake_is_reported(connect: Callable[[KafkaBroker], object]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"kafka+ssl://127.0.0.1:{listener.getsockname()[1]}"
        broker = kafka_broker(url, options={"bootstrap_timeout_ms": 200})
        seconds, text = seconds_until(BrokerUnavailable, lambda: connect(broker))
    assert seconds < 1
    assert "no answer" in text


@connecting
def test_failed_connects_leave_neither_threads_nor_sockets_behind(connect: Callable[[KafkaBroker], object]) -> None:
    broker = kafka_broker(f"kafka://127.0.0.1:{free_port()}", options={"bootstrap_timeout_ms": 50})
    threads, sockets = set(threading.enumerate()), open_sockets()
    for _ in range(10):
        with pytest.raises(BrokerUnavailable):
            connect(broker)
    assert set(threading.enumerate()) == threads
    assert open_sockets() <= sockets


def open_sockets() -> set[int]:
    # Not isinstance(), which would wake lazy objects of other libraries.
    return {item.fileno() for item in gc.get_objects() if type(item) is socket.socket and item.fileno() != -1}


def test_what_was_closed_leaves_neither_threads_nor_sockets_behind(kafka_url: str, topic: str) -> None:
    threads, sockets = set(threading.enumerate()), open_sockets()
    broker = kafka_broker(kafka_url)
    make_topic(broker, topic, partitions=1)
    producer = broker.producer(SECONDS)
    send(producer, *numbered(topic, 1))
    producer.close()
    assert read_all(broker, topic, 1) == [b"0"]
    broker.missing_topics([topic])
    assert set(threading.enumerate()) == threads
    assert open_sockets() <= sockets


@pytest.mark.brokers("apache")  # Tansu takes any name
def test_a_topic_that_the_broker_does_not_want_is_not_created(kafka_url: str, topic: str) -> None:
    broker = kafka_broker(kafka_url)
    with pytest.raises(TopicNotCreated, match="'no topic!' cannot be created"):
        broker.create_topics([topic, "no topic!"], partitions=1, replication=1)
    assert broker.missing_topics(["no topic!"]) == {"no topic!"}


# Outages while sending


def test_a_broker_that_dies_is_reported_within_the_deadline_and_nothing_is_sent_when_it_is_back(
    own_broker: Service, topic: str
) -> None:
    broker = kafka_broker(own_broker.url)
    make_topic(broker, topic, partitions=1)
    producer = broker.producer(1)
    send(producer, Record(topic, b"k", b"before"))

    own_broker.kill()
    seconds, text = seconds_until(BrokerUnavailable, lambda: producer.send(numbered(topic, 10), 1))
    assert seconds < 1.5
    assert text == f"{own_broker.url} did not take a batch: no acknowledgement within 1 s."
    assert not producer.usable
    seconds, _ = seconds_after(producer.close)
    assert seconds < 2

    own_broker.start()
    kept = [] if broker.missing_topics([topic]) else [b"before"]  # in memory, nothing is
    make_topic(broker, topic, partitions=1)
    again = broker.producer(SECONDS)
    send(again, Record(topic, b"k", b"after"))
    again.close()
    assert read_all(broker, topic, len(kept) + 1) == [*kept, b"after"]


def seconds_after(call: Callable[[], object]) -> tuple[float, object]:
    started = time.monotonic()
    result = call()
    return time.monotonic() - started, result


# The one fits into what the kernel holds for a connection that hangs; of five of the other, the first does.
@pytest.mark.parametrize("size", [200_000, 900_000])
def test_nothing_of_an_abandoned_batch_is_sent_when_its_connection_heals(
    proxied: KafkaBroker, proxy: Proxy, topic: str, size: int
) -> None:
    make_topic(proxied, topic, partitions=1)
    producer = proxied.producer(1)
    send(producer, Record(topic, b"k", b"before"))

    proxy.stall()
    seconds, _ = seconds_until(BrokerUnavailable, lambda: producer.send([Record(topic, b"k", b"x" * size)] * 5, 1))
    assert seconds < 1.5
    seconds, _ = seconds_after(producer.close)
    assert seconds < 2
    assert not [thread for thread in threading.enumerate() if "network-thread" in thread.name]
    proxy.heal()
    wait_until(lambda: proxy.connections == 0, what="connections of the abandoned producer ended")

    again = proxied.producer(SECONDS)
    for value in (b"after", b"end"):
        send(again, Record(topic, b"k", value))
    again.close()
    assert read_all(proxied, topic, 3) == [b"before", b"after", b"end"]


def test_a_connection_that_breaks_within_the_deadline_loses_and_doubles_nothing(
    proxied: KafkaBroker, proxy: Proxy, topic: str
) -> None:
    make_topic(proxied, topic, partitions=1)
    producer = proxied.producer(SECONDS)
    send(producer, *numbered(topic, 1))
    records = [Record(topic, b"k", b"%d" % number + b"x" * 1000) for number in range(500)]
    proxy.stall()
    with ThreadPoolExecutor(1) as pool:
        outcomes = pool.submit(producer.send, records, SECONDS)
        wait_until(lambda: proxy.held, what="a part of the batch is on its way")
        proxy.cut()
        proxy.heal()
        assert {type(outcome) for outcome in outcomes.result()} == {Acknowledged}
    producer.close()
    assert read_all(proxied, topic, 501) == [b"0", *(record.value for record in records)]


@pytest.mark.brokers("apache")  # Tansu takes records for topics that it has deleted
def test_a_topic_that_is_deleted_is_missing_to_the_next_producer_and_not_created_again(
    kafka_url: str, topic: str
) -> None:
    broker = kafka_broker(kafka_url)
    make_topic(broker, topic, partitions=1)
    producer = broker.producer(2)
    send(producer, *numbered(topic, 1))
    with KafkaAdminClient(bootstrap_servers=kafka_url.removeprefix("kafka://")) as admin:
        admin.delete_topics([topic])
    with pytest.raises(BrokerUnavailable):
        producer.send(numbered(topic, 1), 2)
    producer.close()
    again = broker.producer(SECONDS)
    assert again.send(numbered(topic, 1), SECONDS) == [TopicTrouble(MISSING_TOPIC)]
    again.close()


@pytest.mark.brokers("apache")
def test_a_record_that_only_the_broker_finds_too_large_is_refused_alone(kafka_url: str, topic: str) -> None:
    broker = kafka_broker(kafka_url)
    make_topic(broker, f"{topic}-other")
    with KafkaAdminClient(bootstrap_servers=kafka_url.removeprefix("kafka://")) as admin:
        admin.create_topics({topic: {"num_partitions": 1, "configs": {"max.message.bytes": "1000"}}})
    producer = broker.producer(SECONDS)
    sizes = [10, 10, 2000, 10, 500, 3000, 500, 500, 10]
    others = [Record(f"{topic}-other", b"key %d" % number, b"v" * 5000) for number in range(20)]
    outcomes = producer.send([*(Record(topic, b"k", b"x" * size) for size in sizes), *others], SECONDS)
    expected = [Refused if size > 1000 else Acknowledged for size in sizes] + [Acknowledged] * 20
    assert [type(outcome) for outcome in outcomes] == expected
    producer.close()

    taken = [size for size in sizes if size <= 1000]
    log = {
        outcome.offset: size for outcome, size in zip(outcomes, sizes, strict=False) if type(outcome) is Acknowledged
    }
    assert list(log.values()) == taken
    assert sorted(log) == list(log)


@pytest.mark.brokers("apache")
def test_a_record_that_the_broker_finds_invalid_is_refused_alone(kafka_url: str, topic: str) -> None:
    with KafkaAdminClient(bootstrap_servers=kafka_url.removeprefix("kafka://")) as admin:
        admin.create_topics({topic: {"num_partitions": 1, "configs": {"cleanup.policy": "compact"}}})
    producer = kafka_broker(kafka_url).producer(SECONDS)
    keys = [b"1", b"2", None, b"3", None, b"4"]  # a compacted topic takes no record without a key
    outcomes = producer.send([Record(topic, key, b"v") for key in keys], SECONDS)
    assert [type(outcome) for outcome in outcomes] == [Acknowledged if key else Refused for key in keys]
    producer.close()


# Outages while reading


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_subscription, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(kafka_subscription, "_CONNECT_MS", 500)


@pytest.fixture
def member(own_broker: Service, topic: str) -> Iterator[Subscription]:
    """Has the one partition of the test's topic, on a broker of the test's own."""
    broker = kafka_broker(own_broker.url)
    make_topic(broker, topic, partitions=1)
    member = broker.subscribe([topic], topic)
    join(member, places=places(topic, 1))
    yield member
    member.close()


@pytest.mark.parametrize("take_away", ["kill", "suspend"])
def test_a_member_notices_that_the_broker_is_gone(
    impatient: None, own_broker: Service, member: Subscription, topic: str, take_away: str
) -> None:
    getattr(own_broker, take_away)()
    seconds, text = seconds_until(BrokerUnavailable, lambda: wait_until(lambda: member.poll(0.2, 10)))
    assert seconds < 5
    assert text.startswith(f"{own_broker.url} does not answer")

    place = TopicPartition(topic, 0)
    for ask in (member.caught_up, lambda: member.commit({place: 1}), lambda: member.poll(0.1, 1)):
        seconds, text = seconds_until(BrokerUnavailable, ask)
        assert seconds < 2
        assert text.startswith(f"{own_broker.url} does not answer")
    seconds, _ = seconds_after(member.close)
    assert seconds < 2


def test_silence_of_a_broker_that_is_there_is_no_outage(
    kafka_url: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = kafka_broker(kafka_url)
    make_topic(broker, topic, partitions=1)
    member = broker.subscribe([topic], topic)
    join(member, places=places(topic, 1))
    monkeypatch.setattr(kafka_subscription, "SILENCE_SECONDS", 0)
    for _ in range(10):
        assert member.poll(0.02, 10) == []
    producer = broker.producer(SECONDS)
    send(producer, *numbered(topic, 3))
    producer.close()
    assert len(read(member, 3)) == 3
    member.close()


@pytest.mark.brokers("apache")  # Tansu never deals the partitions out anew to the members that it has
def test_partitions_that_appear_are_read_by_members_that_are_there_already(kafka_url: str, topic: str) -> None:
    broker = kafka_broker(kafka_url)
    later = f"{topic}-later"
    make_topic(broker, topic, partitions=1)
    member = broker.subscribe([topic, later], topic)
    join(member, places=places(topic, 1))
    make_topic(broker, later, partitions=2)
    join(member, places=places(topic, 1) | places(later, 2))
    member.close()


# What errors mean


class Answer:
    """A record's future, as the client gives it: an error of its own, a place, or nothing ever."""

    base_offset: int | None = None

    def __init__(self, result: object = None) -> None:
        self.result = result

    @property
    def _produce_future(self) -> Any:
        return SimpleNamespace(value=(self.base_offset, None, None))

    def get(self, timeout: float) -> Any:
        if self.result is None:
            threading.Event().wait(timeout)
            raise kafka_errors.KafkaTimeoutError
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class GivenUp(Answer):
    """The future of a record that the client gave up because of another one's error."""

    base_offset = -1


class Raised:
    """An error that comes from ``send`` itself."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class Place:
    def __init__(self, offset: int) -> None:
        self.partition, self.offset = 0, offset


class Client:
    """Stands for a ``KafkaProducer``, and answers in turn what it is told to."""

    def __init__(self, *answers: object) -> None:
        self._answers = iter(answers)
        self.sent: list[object] = []

    def send(self, topic: str, **record: object) -> Answer:
        self.sent.append(record["value"])
        answer = next(self._answers)
        if isinstance(answer, Raised):
            raise answer.error
        return answer if isinstance(answer, Answer) else Answer(answer)


def producer_of(*answers: object, **faults: KafkaError) -> Producer:
    return producer_with(Client(*answers), **faults)


def producer_with(*clients: Client, **faults: KafkaError) -> Producer:
    """A producer that takes these clients, one after the other."""
    return KafkaBrokerProducer(iter(clients).__next__, "kafka://broker:9092", lambda topics, timeout: faults)


def outcomes_of(producer: Producer, count: int, timeout: float = SECONDS) -> list[Outcome]:
    return producer.send(numbered("topic", count), timeout)


REFUSED = [
    kafka_errors.MessageSizeTooLargeError,
    kafka_errors.RecordListTooLargeError,
    kafka_errors.InvalidTopicError,
    kafka_errors.InvalidRecordError,
]
TOPIC = [
    kafka_errors.UnknownTopicOrPartitionError,
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.LeaderNotAvailableError,
    kafka_errors.NotEnoughReplicasError,
    kafka_errors.NotEnoughReplicasAfterAppendError,
    kafka_errors.PolicyViolationError,
]
BROKER = [
    kafka_errors.ClusterAuthorizationFailedError,
    kafka_errors.TransactionalIdAuthorizationFailedError,
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedVersionError,
    kafka_errors.UnsupportedCompressionTypeError,
    kafka_errors.OutOfOrderSequenceNumberError,
    kafka_errors.InvalidProducerEpochError,
    kafka_errors.UnknownProducerIdError,
    kafka_errors.ProducerFencedError,
    kafka_errors.IllegalStateError,
    kafka_errors.KafkaConnectionError,
    kafka_errors.KafkaProtocolError,
    kafka_errors.KafkaStorageError,
    kafka_errors.KafkaTimeoutError,
    kafka_errors.NotLeaderForPartitionError,
    kafka_errors.RequestTimedOutError,
    kafka_errors.Cancelled,
]
raised_or_answered = pytest.mark.parametrize("comes", [Raised, Answer], ids=["raised", "answered"])


@raised_or_answered
@pytest.mark.parametrize("error", REFUSED)
def test_some_errors_refuse_the_record_for_good(error: type[KafkaError], comes: type) -> None:
    one, refused, other = outcomes_of(producer_of(Place(1), comes(error("why")), Place(2)), 3)
    assert (one, other) == (Acknowledged(0, 1), Acknowledged(0, 2))
    assert isinstance(refused, Refused)
    assert error.__name__ in refused.reason
    assert "why" in refused.reason


@raised_or_answered
@pytest.mark.parametrize("error", TOPIC)
def test_some_errors_are_the_topics_fault(error: type[KafkaError], comes: type) -> None:
    one, trouble = outcomes_of(producer_of(Place(1), comes(error("why"))), 2)
    assert one == Acknowledged(0, 1)
    assert isinstance(trouble, TopicTrouble)
    if error is kafka_errors.UnknownTopicOrPartitionError:
        assert trouble.reason == MISSING_TOPIC
    else:
        assert error.__name__ in trouble.reason


@raised_or_answered
def test_other_errors_fail_the_record_for_now(comes: type) -> None:
    one, failed, other = outcomes_of(producer_of(Place(1), comes(kafka_errors.UnknownError("why")), Place(2)), 3)
    assert (one, other) == (Acknowledged(0, 1), Acknowledged(0, 2))
    assert isinstance(failed, Failed)
    assert "why" in failed.reason


NOT_WORTH_ANOTHER_TRY = [error for error in (*REFUSED, *TOPIC, kafka_errors.UnknownError) if not error.retriable]


@pytest.mark.parametrize("error", NOT_WORTH_ANOTHER_TRY)
def test_what_the_client_gave_up_because_of_another_record_is_sent_again(error: type[KafkaError]) -> None:
    fault = error("why")
    spoiled = Client(Place(1), Answer(fault), GivenUp(fault), Answer(KafkaError("part of a batch")), GivenUp(fault))
    fresh = Client(Place(2), Answer(fault), GivenUp(fault))
    last = Client(Place(3))
    producer = producer_with(spoiled, fresh, last)
    outcomes = outcomes_of(producer, 5)
    assert [spoiled.sent, fresh.sent, last.sent] == [[b"0", b"1", b"2", b"3", b"4"], [b"2", b"3", b"4"], [b"4"]]
    assert [outcomes[index] for index in (0, 2, 4)] == [Acknowledged(0, offset) for offset in (1, 2, 3)]
    assert type(outcomes[1]) is type(outcomes[3]) is not Acknowledged
    assert producer.usable


@pytest.mark.parametrize("error", NOT_WORTH_ANOTHER_TRY)
def test_a_client_that_an_error_made_useless_is_not_used_again(error: type[KafkaError]) -> None:
    producer = producer_of(Place(1), Answer(error("why")))
    outcomes_of(producer, 2)
    assert not producer.usable


def test_a_client_with_another_idea_of_its_futures_makes_no_record_dead() -> None:
    class Changed(Answer):
        @property
        def _produce_future(self) -> Any:
            raise AttributeError

    fault = kafka_errors.MessageSizeTooLargeError("why")
    producer = producer_with(Client(Place(1), Changed(fault)), Client(Changed(fault)))
    acknowledged, left = outcomes_of(producer, 2)
    assert acknowledged == Acknowledged(0, 1)
    assert isinstance(left, TopicTrouble)
    assert not producer.usable


def test_a_broker_that_goes_away_while_the_rest_is_to_be_sent_again_is_reported() -> None:
    fault = kafka_errors.MessageSizeTooLargeError("why")
    clients = iter([Client(Answer(fault), GivenUp(fault))])

    def connect() -> Client:
        for client in clients:
            return client
        raise BrokerUnavailable("kafka://broker:9092 cannot be reached.")

    producer = KafkaBrokerProducer(connect, "kafka://broker:9092", lambda topics, timeout: {})
    with pytest.raises(BrokerUnavailable, match="cannot be reached"):
        outcomes_of(producer, 2)
    assert not producer.usable


@raised_or_answered
@pytest.mark.parametrize("error", BROKER)
def test_some_errors_are_nobodys_fault_but_the_brokers(error: type[KafkaError], comes: type) -> None:
    producer = producer_of(comes(error("why")))
    with pytest.raises(BrokerUnavailable, match=r"kafka://broker:9092 did not take a batch: .+\.") as raised:
        outcomes_of(producer, 1)
    assert error.__name__ in str(raised.value) or "no acknowledgement within 10 s" in str(raised.value)
    assert not producer.usable


@raised_or_answered
@pytest.mark.parametrize("error", BROKER)
def test_records_without_an_answer_wait_when_others_were_taken(error: type[KafkaError], comes: type) -> None:
    producer = producer_of(Place(1), comes(error("why")), Place(2))
    outcomes = outcomes_of(producer, 3)
    assert outcomes[0] == Acknowledged(0, 1)
    assert isinstance(outcomes[1], TopicTrouble)
    assert not producer.usable
    # What comes behind an error of send() itself is not started any more.
    assert type(outcomes[2]) is (TopicTrouble if comes is Raised else Acknowledged)


@pytest.mark.parametrize("error", [TypeError("why"), ValueError("why")])
def test_what_the_client_cannot_encode_is_refused(error: Exception) -> None:
    assert outcomes_of(producer_of(Raised(error)), 1) == [Refused("It cannot be encoded: why")]


def test_an_offset_that_the_broker_does_not_tell_is_unknown() -> None:
    assert outcomes_of(producer_of(Place(-1)), 1) == [Acknowledged(0, None)]


def test_all_records_of_a_batch_share_one_deadline() -> None:
    producer = producer_of(*[Answer()] * 50)
    seconds, text = seconds_until(BrokerUnavailable, lambda: outcomes_of(producer, 50, timeout=0.3))
    assert 0.3 <= seconds < 1
    assert text == "kafka://broker:9092 did not take a batch: no acknowledgement within 0.3 s."


def test_what_was_taken_before_the_deadline_counts_though_the_rest_was_not() -> None:
    producer = producer_of(Place(1), Answer(), Place(2), Answer())
    taken, missed = Acknowledged, TopicTrouble("no acknowledgement within 0.1 s")
    assert outcomes_of(producer, 4, timeout=0.1) == [taken(0, 1), missed, taken(0, 2), missed]
    assert not producer.usable


@pytest.mark.parametrize(
    ("fault", "kind", "reason"),
    [
        (kafka_errors.UnknownTopicOrPartitionError(), TopicTrouble, MISSING_TOPIC),
        (kafka_errors.TopicAuthorizationFailedError(), TopicTrouble, "TopicAuthorizationFailedError: "),
        (kafka_errors.InvalidTopicError(), Refused, "InvalidTopicError: "),
    ],
)
def test_records_of_a_topic_with_a_fault_are_not_sent(fault: KafkaError, kind: type, reason: str) -> None:
    producer = producer_of(topic=fault)
    for outcome in outcomes_of(producer, 2):
        assert type(outcome) is kind
        assert outcome.reason.startswith(reason)
    assert producer.usable


def test_a_topic_is_asked_about_once_until_it_makes_trouble() -> None:
    asked = []

    def look_up(topics: Sequence[str], timeout: float) -> dict[str, KafkaError]:
        asked.append(topics)
        return {}

    client = Client(Place(1), Place(2), kafka_errors.LeaderNotAvailableError(), Place(3))
    producer = KafkaBrokerProducer(lambda: client, "kafka://broker:9092", look_up)
    for _ in range(4):
        outcomes_of(producer, 1)
    assert asked == [{"topic"}, {"topic"}]


# Options


@pytest.mark.parametrize("key", ["OPTIONS", "PRODUCER_OPTIONS", "CONSUMER_OPTIONS", "URL"])
@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("lingerms", "does not know: 'lingerms'"),
        ("bootstrap_servers", "must not set 'bootstrap_servers': the hosts come from the URL"),
        ("kafka_client", "must not set 'kafka_client'"),
    ],
)
def test_an_option_that_nobody_may_set_is_named(key: str, option: str, reason: str) -> None:
    assert reason in refusal(key, option, "s3cret")


@pytest.mark.parametrize("key", ["OPTIONS", "PRODUCER_OPTIONS", "URL"])
@pytest.mark.parametrize(
    "option", ["acks", "enable_idempotence", "transactional_id", "key_serializer", "value_serializer"]
)
def test_a_producers_option_on_which_guarantees_rest_may_not_be_set(key: str, option: str) -> None:
    assert f"must not set {option!r}: the delivery guarantees rest on" in refusal(key, option, "s3cret")


@pytest.mark.parametrize("key", ["OPTIONS", "CONSUMER_OPTIONS", "URL"])
@pytest.mark.parametrize(
    "option", ["auto_offset_reset", "enable_auto_commit", "group_id", "key_deserializer", "value_deserializer"]
)
def test_a_consumers_option_on_which_guarantees_rest_may_not_be_set(key: str, option: str) -> None:
    assert f"must not set {option!r}: the delivery guarantees rest on" in refusal(key, option, "s3cret")


@pytest.mark.parametrize(
    ("key", "option", "value", "takes"),
    [
        ("OPTIONS", "request_timeout_ms", "s3cret", "a number"),
        ("OPTIONS", "request_timeout_ms", True, "a number"),
        ("OPTIONS", "ssl_check_hostname", "s3cret", "true or false"),
        ("OPTIONS", "ssl_check_hostname", 1, "true or false"),
        ("OPTIONS", "sasl_plain_password", 12345, "text"),
        ("PRODUCER_OPTIONS", "linger_ms", None, "a number"),
        ("PRODUCER_OPTIONS", "socket_options", "s3cret", "a list"),
        ("CONSUMER_OPTIONS", "session_timeout_ms", "s3cret", "a number"),
        ("CONSUMER_OPTIONS", "receive_buffer_bytes", "s3cret", "a number"),
        ("URL", "linger_ms", "s3cret", "a number"),
        ("URL", "ssl_check_hostname", "s3cret", "true or false"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_and_not_shown(key: str, option: str, value: object, takes: str) -> None:
    assert refusal(key, option, value) == f'OUTBOX["BROKER"]["{key}"]: the option {option!r} takes {takes}.'


@pytest.mark.parametrize(("key", "unknown"), [("PRODUCER_OPTIONS", "group_id"), ("CONSUMER_OPTIONS", "linger_ms")])
def test_an_option_of_the_other_client_is_refused(key: str, unknown: str) -> None:
    assert repr(unknown) in refusal(key, unknown, 5)


def refusal(key: str, option: str, value: object) -> str:
    """Why a broker with this option cannot be made."""
    options = {} if key == "URL" else {key.lower(): {option: value}}
    with pytest.raises(ImproperlyConfigured) as raised:
        kafka_broker(f"kafka://localhost?{option}={value}" if key == "URL" else "kafka://localhost", **options)
    text = str(raised.value)
    assert f'OUTBOX["BROKER"]["{key}"]' in text
    assert option in text
    assert "s3cret" not in text
    return text


@pytest.mark.parametrize(
    ("key", "connect", "options"),
    [
        ("PRODUCER_OPTIONS", "producer", {"compression_type": "s3cret"}),
        ("PRODUCER_OPTIONS", "producer", {"retries": 0}),
        ("PRODUCER_OPTIONS", "producer", {"linger_ms": 10**9}),
        ("CONSUMER_OPTIONS", "subscribe", {"heartbeat_interval_ms": 9000, "session_timeout_ms": 3000}),
        ("CONSUMER_OPTIONS", "subscribe", {"isolation_level": "s3cret"}),
        ("OPTIONS", "missing_topics", {"client_dns_lookup": "s3cret"}),
    ],
)
def test_what_the_client_refuses_is_named_and_not_shown(
    kafka_url: str, key: str, connect: str, options: dict[str, object]
) -> None:
    broker = kafka_broker(kafka_url, **{key.lower(): options})
    threads = set(threading.enumerate())
    with pytest.raises(ImproperlyConfigured, match="kafka-python refuses its options") as raised:
        CONNECTING[connect](broker)
    for option in options:
        assert f'OUTBOX["BROKER"]["{key}"] ({option})' in str(raised.value)
    assert "s3cret" not in str(raised.value)
    assert set(threading.enumerate()) == threads


def test_a_certificate_that_is_not_there_is_a_wrong_option(kafka_url: str) -> None:
    url = f"{kafka_url.replace('kafka:', 'kafka+ssl:')}?ssl_cafile=/nowhere/ca.pem&bootstrap_timeout_ms=300"
    with pytest.raises(ImproperlyConfigured, match=r'No such file.*OUTBOX\["BROKER"\]\["URL"\] \(ssl_cafile\)'):
        kafka_broker(url).producer(SECONDS)


def test_options_reach_the_clients_that_know_them(kafka_url: str, topic: str) -> None:
    broker = kafka_broker(
        f"{kafka_url}?linger_ms=3&metadata_max_age_ms=70000",
        options={"client_id": "shop", "metadata_max_age_ms": 80000, "fetch_min_bytes": 2, "ssl_password": None},
        producer_options={"linger_ms": 4, "socket_options": [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)]},
        consumer_options={**IMPATIENT, "metadata_max_age_ms": 90000},
    )
    make_topic(broker, topic, partitions=1)
    producer, subscription = broker.producer(SECONDS), broker.subscribe([topic], topic)
    made, read_with = producer._client.config, subscription._client.config  # type: ignore[attr-defined]
    assert (made["client_id"], made["linger_ms"], made["metadata_max_age_ms"]) == ("shop", 4, 80000)
    assert (made["acks"], made["enable_idempotence"]) == (-1, True)
    assert made["socket_options"][0] == (socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    assert (read_with["client_id"], read_with["fetch_min_bytes"]) == ("shop", 2)
    assert read_with["metadata_max_age_ms"] == 90000
    assert read_with["session_timeout_ms"] == IMPATIENT["session_timeout_ms"]
    assert (read_with["enable_auto_commit"], read_with["auto_offset_reset"]) == (False, "earliest")
    producer.close()
    subscription.close()


# Passwords


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """All that the client and the outbox log, at the lowest level."""
    for name in ("kafka", "django_outbox"):
        caplog.set_level(1, name)
    return caplog


@connecting
def test_a_password_is_not_shown_when_a_server_asks_for_none(
    kafka_url: str, everything_logged: pytest.LogCaptureFixture, connect: Callable[[KafkaBroker], object]
) -> None:
    address = kafka_url.removeprefix("kafka://")
    url = f"kafka+sasl://{USER}:{PASSWORD}@{address}?bootstrap_timeout_ms=200"
    broker = kafka_broker(url, options={"ssl_password": PASSWORD})
    with pytest.raises(BrokerUnavailable) as raised:
        connect(broker)
    assert address in str(raised.value)
    shown = "".join(traceback.format_exception(raised.value)) + repr(broker) + str(broker) + repr(vars(broker))
    assert PASSWORD not in shown
    assert USER not in str(raised.value)
    assert everything_logged.text
    assert PASSWORD not in everything_logged.text


def test_a_password_is_not_shown_in_what_the_client_logs_of_a_login(
    everything_logged: pytest.LogCaptureFixture,
) -> None:
    kafka_broker(f"kafka+sasl://{USER}:{PASSWORD}@localhost")._options(KafkaAdminClient)
    token = f"\0{USER}\0{PASSWORD}".encode()
    request = SaslAuthenticateRequest(token, version=2)
    for name in ("kafka.net.connection", "kafka.protocol.parser"):
        log = logging.getLogger(name)
        log.debug("%s Request %d: %s", name, 1, request)
        log.debug("%s Send: %r", name, bytearray(b"head" + token))
        log.debug("%s something else", name)
    assert [record.getMessage() for record in everything_logged.records] == [
        "kafka.net.connection something else",
        "kafka.protocol.parser something else",
    ]


@pytest.fixture(scope="module")
def service_with_login() -> Iterator[ApacheKafkaWithLogin]:
    with ApacheKafkaWithLogin() as service:
        yield service


@pytest.mark.brokers("apache")
def test_the_right_password_opens_and_is_not_shown(
    service_with_login: ApacheKafkaWithLogin, topic: str, everything_logged: pytest.LogCaptureFixture
) -> None:
    broker = kafka_broker(f"kafka+sasl://{USER}:{PASSWORD}@127.0.0.1:{service_with_login.login_port}")
    make_topic(broker, topic, partitions=1)
    producer = broker.producer(SECONDS)
    send(producer, *numbered(topic, 3))
    producer.close()
    assert read_all(broker, topic, 3) == [b"0", b"1", b"2"]
    assert PASSWORD not in everything_logged.text


@pytest.mark.brokers("apache")
@connecting
def test_a_wrong_password_is_reported_and_not_shown(
    service_with_login: ApacheKafkaWithLogin,
    everything_logged: pytest.LogCaptureFixture,
    connect: Callable[[KafkaBroker], object],
) -> None:
    location = f"127.0.0.1:{service_with_login.login_port}"
    broker = kafka_broker(f"kafka+sasl://{USER}:not-{PASSWORD}@{location}")
    seconds, text = seconds_until(BrokerUnavailable, lambda: connect(broker))
    assert seconds < 6.5
    # The client throws the server's answer away if the connection is closed right behind it.
    assert text.startswith((f"kafka+sasl://{location} refuses this client", f"kafka+sasl://{location} cannot be"))
    assert "with its user and password" in text or "SaslAuthenticationFailedError" in text
    assert USER not in text
    assert PASSWORD not in text + everything_logged.text
