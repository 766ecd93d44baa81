"""What both client libraries can get wrong: outages, errors of the broker, topics and partitions that come and go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import confluent_kafka
import pytest

from django_outbox.brokers.base import (
    Acknowledged,
    Progress,
    Record,
    Refused,
    Subscription,
    TopicForbidden,
    TopicPartition,
    TopicTrouble,
)
from django_outbox.brokers.kafka import subscription as kafka_subscription
from django_outbox.exceptions import BrokerUnavailable, TopicNotCreated
from tests.support.brokers.backends import Backend
from tests.support.brokers.proxy import Proxy
from tests.support.brokers.records import (
    SECONDS,
    SLACK_SECONDS,
    allow,
    delete_records,
    is_caught_up,
    join,
    leader_of,
    log_of,
    make_special_topic,
    make_topic,
    make_topic_on,
    numbered,
    places,
    read,
    seconds_of,
    seconds_until,
    send,
    sole_member,
)
from tests.support.brokers.servers import SecondApacheKafka
from tests.support.processes import wait_until
from tests.support.servers.apache_kafka import ApacheKafka
from tests.support.servers.base import Service
from tests.support.servers.secured_kafka import PLAIN, SecuredKafka

Transact = Callable[..., confluent_kafka.Producer]

# Connecting


# Sending


def test_a_connection_that_breaks_within_the_deadline_loses_and_doubles_nothing(
    backend: Backend, proxied_url: str, proxy: Proxy, topic: str
) -> None:
    broker = backend.make(proxied_url)
    make_topic(broker, topic, partitions=1)
    producer = broker.producer(SECONDS)
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
    assert log_of(broker, topic, 501) == [b"0", *(record.value for record in records)]


@pytest.mark.brokers("apache")
def test_a_record_that_only_the_broker_finds_too_large_is_refused_alone(
    backend: Backend, kafka_url: str, topic: str
) -> None:
    broker = backend.make(kafka_url)
    make_topic(broker, f"{topic}-other")
    make_special_topic(broker, topic, **{"max.message.bytes": "1000"})
    producer = broker.producer(SECONDS)
    sizes = [10, 10, 2000, 10, 500, 3000, 500, 500, 10]
    others = [Record(f"{topic}-other", b"key %d" % number, b"v" * 5000) for number in range(20)]
    outcomes = producer.send([*(Record(topic, b"k", b"x" * size) for size in sizes), *others], SECONDS)
    expected = [Refused if size > 1000 else Acknowledged for size in sizes] + [Acknowledged] * 20
    assert [type(outcome) for outcome in outcomes] == expected
    producer.close()
    taken = [outcome.offset for outcome in outcomes[: len(sizes)] if isinstance(outcome, Acknowledged)]
    assert taken == sorted(taken)


@pytest.mark.brokers("apache")
def test_a_record_that_the_broker_finds_invalid_is_refused_alone(backend: Backend, kafka_url: str, topic: str) -> None:
    broker = backend.make(kafka_url)
    make_special_topic(broker, topic, **{"cleanup.policy": "compact"})
    producer = broker.producer(SECONDS)
    keys = [b"1", b"2", None, b"3", None, b"4"]  # a compacted topic takes no record without a key
    outcomes = producer.send([Record(topic, key, b"v") for key in keys], SECONDS)
    assert [type(outcome) for outcome in outcomes] == [Acknowledged if key else Refused for key in keys]
    producer.close()


@pytest.mark.brokers("apache")
def test_a_topic_that_this_client_may_not_write_to_is_trouble_for_its_own_records_only(
    backend: Backend, secured_kafka: SecuredKafka, topic: str
) -> None:
    operator = backend.make(secured_kafka.url)
    allowed, read_only, hidden = (make_topic(operator, f"{topic}-{name}", 1) for name in ("yes", "read", "no"))
    allow(operator, f"User:{PLAIN.user}", {allowed: ["DESCRIBE", "WRITE"], read_only: ["DESCRIBE", "READ"]})
    broker = backend.make(f"kafka+sasl://{PLAIN.userinfo}{secured_kafka.address('LOGIN')}")
    for topics in ([hidden, allowed], [read_only, allowed, read_only], [read_only], [hidden], [allowed]):
        producer = broker.producer(SECONDS)
        outcomes = producer.send([Record(name, b"k", b"v") for name in topics], SECONDS)
        assert [type(outcome) for outcome in outcomes] == [
            Acknowledged if name == allowed else TopicForbidden for name in topics
        ]
        producer.close()


@pytest.fixture
def second_of_two(first_of_two: ApacheKafka) -> Iterator[SecondApacheKafka]:
    with SecondApacheKafka(first_of_two) as service:
        yield service


@pytest.mark.brokers("apache")
def test_a_topic_without_a_leader_is_trouble_for_its_own_records_only_until_it_has_one(
    backend: Backend, first_of_two: ApacheKafka, second_of_two: SecondApacheKafka, topic: str
) -> None:
    broker = backend.make(first_of_two.url)
    here, there = f"{topic}-here", f"{topic}-there"
    make_topic_on(broker, here, 1)
    make_topic_on(broker, there, 2)
    used = broker.producer(5)
    send(used, *numbered(here, 1), *numbered(there, 1))
    second_of_two.stop()
    wait_until(lambda: leader_of(broker, there) is None, what="no leader")

    fresh = broker.producer(5)
    for producer in (used, fresh):  # one has known of a leader, one has not
        (outcome,) = producer.send(numbered(there, 1), 5)
        assert isinstance(outcome, TopicTrouble)
        producer.close()
    producer = broker.producer(5)
    trouble, acknowledged = producer.send([*numbered(there, 1), *numbered(here, 1)], 5)
    assert isinstance(trouble, TopicTrouble)
    assert isinstance(acknowledged, Acknowledged)
    assert producer.usable

    second_of_two.start()
    wait_until(lambda: leader_of(broker, there) is not None, what="a leader")
    wait_until(lambda: isinstance(producer.send(numbered(there, 1), SECONDS)[0], Acknowledged))
    producer.close()


# Reading


@pytest.fixture
def member(backend: Backend, own_broker: Service, topic: str) -> Iterator[Subscription]:
    """Has the one partition of the test's topic, on a broker of the test's own."""
    broker = backend.make(own_broker.url)
    member = sole_member(broker, topic)
    yield member
    member.close()


@pytest.mark.parametrize("take_away", ["kill", "suspend"])
def test_a_member_notices_that_the_broker_is_gone(
    backend: Backend,
    own_broker: Service,
    member: Subscription,
    topic: str,
    take_away: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend.notice_silence_after(monkeypatch, 0.2)
    backend.wait_for_answers(monkeypatch, 0.5)
    getattr(own_broker, take_away)()
    seconds, text = seconds_until(BrokerUnavailable, lambda: wait_until(lambda: member.poll(0.2, 10)))
    assert seconds < 2 * SLACK_SECONDS
    assert text.startswith((f"{own_broker.url} cannot be reached (", f"{own_broker.url} does not answer ("))

    place = TopicPartition(topic, 0)
    for ask in (member.progress, member.caught_up, lambda: member.commit({place: 1})):
        seconds, text = seconds_until(BrokerUnavailable, ask)
        assert seconds < 0.5 + SLACK_SECONDS
        assert text.startswith((f"{own_broker.url} cannot be reached (", f"{own_broker.url} does not answer ("))
    assert seconds_of(member.close) < SLACK_SECONDS


def test_who_is_to_end_does_not_wait_for_a_sign_of_life(
    backend: Backend, proxied_url: str, proxy: Proxy, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = backend.make(proxied_url)
    member = sole_member(broker, topic)
    backend.notice_silence_after(monkeypatch, 0.2)
    backend.wait_for_answers(monkeypatch, SECONDS)
    proxy.stall()
    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(seconds_until, BrokerUnavailable, lambda: wait_until(lambda: member.poll(0.1, 1)))
        wait_until(lambda: any(thread.name == "outbox-call" for thread in threading.enumerate()))
        broker.interrupted = lambda: True
        assert seconds_of(polling.result) < SLACK_SECONDS
    assert seconds_of(member.close) < SLACK_SECONDS


def test_silence_of_a_broker_that_is_there_is_no_outage(
    backend: Backend, kafka_url: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = backend.make(kafka_url)
    member = sole_member(broker, topic)
    backend.notice_silence_after(monkeypatch, 0)
    for _ in range(20):
        assert member.poll(0.02, 10) == []
    producer = broker.producer(SECONDS)
    send(producer, *numbered(topic, 3))
    producer.close()
    assert len(read(member, 3)) == 3
    member.close()


@pytest.mark.brokers("apache")  # Tansu keeps them
def test_progress_begins_where_the_log_does(backend: Backend, kafka_url: str, topic: str) -> None:
    broker = backend.make(kafka_url)
    make_topic(broker, topic, partitions=1)
    producer = broker.producer(SECONDS)
    send(producer, *numbered(topic, 5))
    producer.close()
    delete_records(broker, topic, 3)
    assert broker.progress([topic], topic) == {TopicPartition(topic, 0): Progress(low=3, high=5, committed=None)}
    member = broker.subscribe([topic], topic)
    assert [record.offset for record in read(member, 2)] == [3, 4]
    assert member.progress() == {TopicPartition(topic, 0): Progress(low=3, high=5, committed=None, position=5)}
    member.close()


# Transactions of other services


@pytest.fixture
def transact(kafka_url: str, topic: str) -> Transact:
    """Begin a transaction of another service that sends these values; its end is to commit or to abort it."""
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": kafka_url.removeprefix("kafka://"), "transactional.id": topic}
    )
    producer.init_transactions(SECONDS)

    def transact(*values: bytes) -> confluent_kafka.Producer:
        producer.begin_transaction()
        for value in values:
            producer.produce(topic, value, partition=0)
        assert producer.flush(SECONDS) == 0
        return producer

    return transact


def read_to_the_end(member: Subscription) -> list[bytes | None]:
    values: list[bytes | None] = []

    def is_at_the_end() -> bool:
        records = member.poll(0.1, 2)
        values.extend(record.value for record in records)
        return not records and is_caught_up(member)

    wait_until(is_at_the_end)
    return values


@pytest.mark.brokers("apache")  # Tansu lets nobody see a transaction before its end, but has no marks for it
def test_what_a_transaction_took_back_is_not_read_nor_left_to_be_read(
    backend: Backend, kafka_url: str, topic: str, transact: Transact
) -> None:
    broker = backend.make(kafka_url)
    make_topic(broker, topic, partitions=1)
    transact(b"never", b"never").abort_transaction(SECONDS)
    transact(b"1", b"2", b"3").commit_transaction(SECONDS)
    transact(b"never", b"never").abort_transaction(SECONDS)
    member = broker.subscribe([topic], topic)
    assert read_to_the_end(member) == [b"1", b"2", b"3"]
    place = TopicPartition(topic, 0)
    assert member.progress()[place].position == member.progress()[place].high == 10  # with three marks
    member.commit({place: 6})
    transact(b"never").abort_transaction(SECONDS)
    transact(b"4").commit_transaction(SECONDS)
    assert read_to_the_end(member) == [b"4"]
    member.close()


@pytest.mark.brokers("apache")
def test_what_waits_for_the_end_of_a_transaction_is_neither_read_nor_taken_for_gone(
    backend: Backend, kafka_url: str, topic: str, transact: Transact
) -> None:
    broker = backend.make(kafka_url)
    make_topic(broker, topic, partitions=1)
    producer = broker.producer(SECONDS)
    send(producer, *numbered(topic, 2))
    under_way = transact(b"never")
    send(producer, *numbered(topic, 2, start=2))
    producer.close()
    member = broker.subscribe([topic], topic)
    assert [record.value for record in read(member, 2)] == [b"0", b"1"]
    assert member.poll(0.3, 10) == []
    assert not is_caught_up(member)
    assert member.progress() == {TopicPartition(topic, 0): Progress(low=0, high=5, committed=None, position=2)}
    under_way.abort_transaction(SECONDS)
    assert read_to_the_end(member) == [b"2", b"3"]
    member.close()


@pytest.mark.brokers("apache")
def test_a_project_may_read_what_transactions_have_not_committed(
    backend: Backend, kafka_url: str, topic: str, transact: Transact
) -> None:
    impatient = backend.make(kafka_url).settings.consumer_options
    broker = backend.make(kafka_url, consumer_options={**impatient, backend.isolation: "read_uncommitted"})
    make_topic(broker, topic, partitions=1)
    under_way = transact(b"v")
    member = broker.subscribe([topic], topic)
    assert [record.value for record in read(member, 1)] == [b"v"]
    under_way.abort_transaction(SECONDS)
    member.close()


# Caught up


@pytest.mark.brokers("apache")  # Tansu does not wait for a member that is busy
def test_a_member_is_not_caught_up_while_its_share_is_dealt_out_anew(
    backend: Backend, kafka_url: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_subscription, "JOIN_SECONDS", 0.2)  # this thread polls for all members
    broker = backend.make(kafka_url)
    make_topic(broker, topic, partitions=3)
    member, busy = broker.subscribe([topic], topic), broker.subscribe([topic], topic)
    join(member, busy, places=places(topic, 3))
    producer = broker.producer(SECONDS)
    send(producer, *(Record(topic, b"%d" % number, b"v") for number in range(5000)))
    producer.close()

    new = broker.subscribe([topic], topic)  # its share is known once all members have polled again
    empty_handed = 0

    def has_nothing_to_read() -> bool:
        nonlocal empty_handed
        new.poll(0.05, 1)
        empty_handed = 0 if member.poll(0.2, 1) else empty_handed + 1
        assert empty_handed == 0 or not is_caught_up(member)
        return empty_handed == 10

    wait_until(has_nothing_to_read, what="partitions taken away")
    members = [member, busy, new]
    join(*members, places=places(topic, 3))

    def all_are_caught_up() -> bool:
        told = [not each.poll(0.1, 500) and is_caught_up(each) for each in members]
        return all(told)

    wait_until(all_are_caught_up)
    for each in members:
        each.close()


@pytest.mark.brokers("apache")  # Tansu deals out to nobody what a member has lost by being away
def test_a_member_that_was_away_for_too_long_is_not_caught_up_before_it_is_back(
    backend: Backend, kafka_url: str, topic: str
) -> None:
    broker = backend.missing_members_soon(kafka_url)
    make_topic(broker, topic, partitions=1)
    away = broker.subscribe([topic], topic)
    join(away, places=places(topic, 1))
    other = broker.subscribe([topic], topic)
    join(other, places=places(topic, 1))  # which it gets only when the first one has lost it
    other.close()
    producer = broker.producer(SECONDS)
    send(producer, *numbered(topic, 3))
    producer.close()

    assert not is_caught_up(away)

    def is_back() -> bool:
        records = away.poll(0.01, 500)
        assert records or not is_caught_up(away)
        return bool(records)

    wait_until(is_back)
    wait_until(lambda: not away.poll(0.1, 500) and is_caught_up(away), what="caught up")
    away.close()


# Topics


@pytest.mark.brokers("apache")  # Tansu takes any name
def test_a_topic_that_the_broker_does_not_want_is_not_created(backend: Backend, kafka_url: str, topic: str) -> None:
    broker = backend.make(kafka_url)
    with pytest.raises(TopicNotCreated, match="'no topic!' cannot be created"):
        broker.create_topics([topic, "no topic!"], partitions=1, replication=1)
    assert broker.missing_topics(["no topic!"]) == {"no topic!"}


@pytest.mark.brokers("apache")  # Tansu never deals the partitions out anew to the members that it has
def test_partitions_that_appear_are_read_by_members_that_are_there_already(
    backend: Backend, kafka_url: str, topic: str
) -> None:
    broker = backend.looking_often_for_topics(kafka_url)
    later = f"{topic}-later"
    make_topic(broker, topic, partitions=1)
    member = broker.subscribe([topic, later], topic)
    join(member, places=places(topic, 1))
    make_topic(broker, later, partitions=2)
    join(member, places=places(topic, 1) | places(later, 2))
    member.close()
