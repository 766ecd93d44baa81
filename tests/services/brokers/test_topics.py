"""Reading several topics of which one is in trouble, with both client libraries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from django_outbox.brokers.base import (
    Broker,
    Subscription,
    TopicForbidden,
    TopicMissing,
    TopicPartition,
    TopicTrouble,
)
from django_outbox.exceptions import BrokerUnavailable, TopicNotReadable
from tests.support.brokers.backends import Backend
from tests.support.brokers.records import (
    SECONDS,
    allow,
    delete_topic,
    forbid,
    is_caught_up,
    leader_of,
    make_topic,
    make_topic_on,
    numbered,
    read,
    send,
)
from tests.support.brokers.servers import SecondApacheKafka
from tests.support.processes import wait_until
from tests.support.servers.apache_kafka import ApacheKafka
from tests.support.servers.secured_kafka import PLAIN, SecuredKafka

pytestmark = pytest.mark.brokers("apache")

ME = f"User:{PLAIN.user}"


@pytest.fixture
def operator(backend: Backend, secured_kafka: SecuredKafka) -> Broker:
    """Who may do all."""
    return backend.make(secured_kafka.url)


@pytest.fixture
def broker(backend: Backend, secured_kafka: SecuredKafka) -> Broker:
    """For whom rights matter."""
    return backend.make(f"kafka+sasl://{PLAIN.userinfo}{secured_kafka.address('LOGIN')}")


def place(topic: str) -> TopicPartition:
    return TopicPartition(topic, 0)


def put(operator: Broker, *topics: str) -> None:
    """Send one record to each."""
    producer = operator.producer(SECONDS)
    send(producer, *(record for topic in topics for record in numbered(topic, 1)))
    producer.close()


def test_what_cannot_be_read_is_told_by_topic(operator: Broker, broker: Broker, topic: str) -> None:
    readable, described, hidden = (make_topic(operator, f"{topic}-{name}", 1) for name in ("yes", "seen", "no"))
    allow(operator, ME, {readable: ["READ"], described: ["DESCRIBE", "WRITE"]})
    faults = wait_until(lambda: len(found := broker.unreadable_topics([readable, described, hidden])) == 2 and found)
    assert faults == {
        described: TopicForbidden("this client may not read it"),
        hidden: TopicForbidden("this client may not even see whether it exists"),
    }
    assert operator.unreadable_topics([readable, described, hidden]) == {}
    assert operator.unreadable_topics([readable, f"{topic}-missing", "no topic!"]) == {
        f"{topic}-missing": TopicMissing(),
        "no topic!": TopicMissing("its name is not valid"),
    }
    assert operator.unreadable_topics([]) == {}
    with pytest.raises(TopicNotReadable, match=f"does not describe {hidden}: .*uthoriz") as raised:
        broker.progress([readable, hidden], topic)
    assert raised.value.topics == {hidden}


@pytest.mark.parametrize("rights", [["DESCRIBE"], []], ids=["not read", "not even described"])
def test_who_may_no_longer_read_a_topic_is_told_which_and_commits_nothing_of_it(
    operator: Broker, broker: Broker, topic: str, rights: list[str]
) -> None:
    good, bad = (make_topic(operator, f"{topic}-{name}", 1) for name in ("good", "bad"))
    allow(operator, ME, {good: ["READ"], bad: ["READ"]}, groups=[topic])
    put(operator, good, bad)
    member = broker.subscribe([good, bad], topic)
    read(member, 2)
    forbid(operator, ME, bad)
    allow(operator, ME, {bad: rights})
    wait_until(lambda: bad in broker.unreadable_topics([bad]))

    with pytest.raises(TopicNotReadable) as raised:
        member.commit({place(bad): 1})
    assert raised.value.topics == {bad}
    with pytest.raises(TopicNotReadable, match=r"refuses this client: .* by an ACL for the operation Read") as raised:
        wait_until(lambda: member.poll(0.3, 10))
    assert raised.value.topics == {bad}
    member.close()

    member = broker.subscribe([good], topic)
    read(member, 1)
    member.commit({place(good): 1})
    member.close()
    progress = operator.progress([good, bad], topic)
    assert (progress[place(good)].committed, progress[place(bad)].committed) == (1, None)


def member_of_two(broker: Broker, topic: str) -> tuple[str, str, Subscription]:
    """Two topics and a member that has read one record of each."""
    good, bad = (make_topic(broker, f"{topic}-{name}", 1) for name in ("good", "bad"))
    put(broker, good, bad)
    member = broker.subscribe([good, bad], topic)
    read(member, 2)
    return good, bad, member


def test_of_a_topic_that_is_gone_a_member_tells_nothing_and_of_the_others_all(
    backend: Backend, kafka_url: str, topic: str
) -> None:
    broker = backend.make(kafka_url)
    good, bad, member = member_of_two(broker, topic)
    assert is_caught_up(member)
    delete_topic(broker, bad)
    wait_until(lambda: bad in broker.unreadable_topics([bad]))
    assert set(member.progress()) == {place(good)}
    put(broker, good)
    assert [record.topic for record in read(member, 1)] == [good]
    member.close()


@pytest.mark.parametrize("waits", [True, False], ids=["commit", "commit soon"])
def test_a_commit_with_a_topic_that_is_gone_is_no_outage_and_is_made_for_the_others(
    backend: Backend, kafka_url: str, topic: str, waits: bool
) -> None:
    broker = backend.make(kafka_url)
    good, bad, member = member_of_two(broker, topic)
    delete_topic(broker, bad)
    wait_until(lambda: bad in broker.unreadable_topics([bad]))

    def is_committed() -> bool:
        offsets = {place(good): 1, place(bad): 1}
        member.poll(0.1, 1)
        return member.commit(offsets) if waits else member.commit_soon(offsets)

    wait_until(is_committed)  # once the member has noticed that it has lost the partition
    assert broker.progress([good], topic)[place(good)].committed == 1
    member.close()


@pytest.fixture
def group(backend: Backend, first_of_two: ApacheKafka, topic: str) -> str:
    """A consumer group that the first node looks after, whatever happens to others."""
    broker = backend.make(first_of_two.url)
    make_topic_on(broker, f"{topic}-first", 1)
    put(broker, f"{topic}-first")
    member = broker.subscribe([f"{topic}-first"], topic)
    read(member, 1)
    member.close()
    return topic


@pytest.fixture
def second_of_two(first_of_two: ApacheKafka, group: str) -> Iterator[SecondApacheKafka]:
    with SecondApacheKafka(first_of_two) as service:
        yield service


def test_a_topic_without_a_leader_is_told_and_the_others_are_read_and_told_of(
    backend: Backend, first_of_two: ApacheKafka, second_of_two: SecondApacheKafka, group: str
) -> None:
    broker = backend.make(first_of_two.url)
    good, bad = f"{group}-good", f"{group}-bad"
    make_topic_on(broker, good, 1)
    make_topic_on(broker, bad, 2)
    put(broker, good, bad)
    member = broker.subscribe([good, bad], group)
    read(member, 2)
    second_of_two.stop()
    wait_until(lambda: leader_of(broker, bad) is None, what="no leader")

    assert broker.unreadable_topics([good, bad]) == {bad: TopicTrouble("no leader of partition 0")}

    put(broker, good)
    assert {record.topic for record in read(member, 1)} == {good}
    member.commit({place(good): 2})
    assert {each: progress.committed for each, progress in member.progress().items()} == {place(good): 2}
    with pytest.raises(BrokerUnavailable, match=f"does not describe {bad}"):
        member.caught_up()
    with pytest.raises(TopicNotReadable, match=f"does not describe {bad}: no leader of partition 0") as raised:
        broker.progress([good, bad], group)
    assert raised.value.topics == {bad}
    member.close()
