"""What the broker is asked for. That both libraries can be asked is proven in tests/services/brokers/test_doctor.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from django_outbox.brokers.base import TopicForbidden, TopicSettings, TopicTrouble
from django_outbox.brokers.errors import NOT_EVEN_SEEN, NOT_READABLE
from django_outbox.brokers.loading import get_broker
from django_outbox.brokers.memory import MemoryBroker
from django_outbox.conf import settings as outbox
from django_outbox.exceptions import BrokerUnavailable
from django_outbox.models.fields import DatabaseNow
from django_outbox.operations.doctor import broker
from django_outbox.operations.doctor.base import Installation, Level
from tests.pipeline.doctor.test_workers import make_worker
from tests.support.outbox import Status, make_message
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)


def make_topic(name: str = "outbox", partitions: int = 3) -> None:
    get_broker(outbox.broker).create_topics([name], partitions=partitions, replication=1)


@pytest.fixture
def keeps(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the broker say how it keeps the records of topics."""

    def keeps(**told: TopicSettings) -> None:
        def topic_settings(self: Any, topics: Iterable[str]) -> Mapping[str, TopicSettings]:
            return {topic: told[topic] for topic in topics if topic in told}

        monkeypatch.setattr(MemoryBroker, "topic_settings", topic_settings)

    return keeps


def strict() -> Any:
    """A broker that creates no topic unasked."""
    name = "django_outbox.brokers.memory.MemoryBroker"
    return outbox_settings(BROKER={"BACKEND": name, "OPTIONS": {"create_topics": False}})


def test_a_broker_that_does_not_answer_is_a_fault(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(broker.reachable(Installation("default"))) == []

    def away(self: Any, topics: Any) -> Any:
        raise BrokerUnavailable("kafka://nowhere:9092 cannot be reached.")

    monkeypatch.setattr(MemoryBroker, "missing_topics", away)  # on which unreadable_topics rests
    (finding,) = broker.reachable(installation)
    assert (finding.level, finding.summary) == (Level.FAULT, "kafka://nowhere:9092 cannot be reached.")


def test_a_topic_that_does_not_exist_is_a_fault(installation: Installation) -> None:
    with strict():
        (finding,) = broker.topics(installation)
        assert (finding.level, finding.summary) == (Level.FAULT, "The topic 'outbox' does not exist.")
        assert "outbox_relay --create-topics" in finding.remedy
        make_topic()
        assert list(broker.topics(Installation("default"))) == []


def test_a_topic_that_only_handlers_want_is_warned_of(installation: Installation) -> None:
    with strict(), outbox_settings(INBOX={"elsewhere": lambda record: None}):
        make_topic()
        (finding,) = broker.topics(installation)
    assert finding.level == Level.WARNING
    assert finding.summary.startswith("The topic 'elsewhere'")


@pytest.mark.parametrize("status", [Status.PENDING, Status.PUBLISHED])
def test_a_topic_of_unfinished_messages_that_does_not_exist_is_a_fault(installation: Installation, status: str) -> None:
    """Also one that no setting names, as publish() was given it."""
    make_message(status, topic="exports")
    make_message(Status.CONSUMED, topic="retired")
    with strict():
        make_topic()
        (finding,) = broker.topics(installation)
        assert (finding.level, finding.summary) == (Level.FAULT, "The topic 'exports' does not exist.")
        make_topic("exports")
        assert list(broker.topics(Installation("default"))) == []


def trouble_with(monkeypatch: pytest.MonkeyPatch, **topics: Any) -> None:
    monkeypatch.setattr(MemoryBroker, "unreadable_topics", lambda self, asked: topics)


def test_topics_that_cannot_be_read_are_faults(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    trouble_with(monkeypatch, elsewhere=TopicForbidden(NOT_READABLE), outbox=TopicTrouble("no leader"))
    with outbox_settings(INBOX={"elsewhere": lambda record: None}):
        forbidden, leaderless = broker.topics(installation)
    assert forbidden.level == leaderless.level == Level.FAULT
    assert forbidden.summary == "The topic 'elsewhere': this client may not read it."
    assert forbidden.remedy.endswith("--topic elsewhere --consumer --group GROUP")
    assert leaderless.summary == "The topic 'outbox' is in trouble: no leader."


def test_a_topic_that_is_only_written_need_not_be_readable_but_seen(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with outbox_settings(DEAD_LETTER_TOPIC="dead"):
        trouble_with(monkeypatch, dead=TopicForbidden(NOT_READABLE))
        assert list(broker.topics(installation)) == []
        trouble_with(monkeypatch, dead=TopicForbidden(NOT_EVEN_SEEN), outbox=TopicForbidden(NOT_EVEN_SEEN))
        dead, outbox = broker.topics(Installation("default"))
    assert dead.remedy.endswith("--topic dead --producer")
    assert outbox.remedy.endswith("--topic outbox --producer --consumer --group GROUP")


def test_more_consumers_than_partitions_are_warned_of(installation: Installation) -> None:
    make_topic(partitions=1)
    make_worker("consumer", group="tests")
    make_worker("consumer", group="strangers")
    make_worker("consumer", group="tests", seen=timedelta(minutes=5))  # lost
    assert list(broker.partitions(installation)) == []
    make_worker("consumer", group="tests")
    (finding,) = broker.partitions(installation)
    assert finding.level == Level.WARNING
    assert finding.summary == "2 consumers of the group 'tests' for 1 partition."
    assert finding.remedy.startswith("Stop 1 of them")


def test_a_broker_that_does_not_tell_its_retention_is_noted(installation: Installation) -> None:
    make_topic()
    (finding,) = broker.retention(installation)
    assert finding.level == Level.NOTE
    assert finding.summary == "The broker does not report the retention of outbox."


def test_a_topic_that_keeps_records_as_long_as_the_inbox_is_fine(installation: Installation, keeps: Any) -> None:
    keeps(outbox=TopicSettings(7 * DAY, compacted=False))
    assert list(broker.retention(installation)) == []


@pytest.mark.parametrize(
    ("kept", "level", "text"),
    [
        (DAY, Level.WARNING, "keeps records for 1 day, 0:00:00, and the inbox remembers events for 7 days"),
        (30 * DAY, Level.NOTE, "keeps records for 30 days, 0:00:00, and the inbox remembers events for 7 days"),
        (None, Level.NOTE, "keeps records forever, and the inbox remembers events for 7 days"),
    ],
)
def test_a_topic_that_keeps_records_for_another_time_than_the_inbox_is_told(
    installation: Installation, keeps: Any, kept: timedelta | None, level: Level, text: str
) -> None:
    keeps(outbox=TopicSettings(kept, compacted=False))  # read by the group "reports", through the inbox
    (finding,) = broker.retention(installation)
    assert finding.level == level
    assert text in finding.summary


def test_a_compacted_topic_is_warned_of(installation: Installation, keeps: Any) -> None:
    keeps(outbox=TopicSettings(7 * DAY, compacted=True))
    (finding,) = broker.retention(installation)
    assert (finding.level, finding.summary) == (Level.WARNING, "The topic 'outbox' is compacted.")


def test_records_that_may_go_before_they_are_read_are_warned_of(installation: Installation, keeps: Any) -> None:
    keeps(outbox=TopicSettings(7 * DAY, compacted=False))
    make_message(Status.PUBLISHED, event_type="test.effect", published_at=DatabaseNow() - 4 * DAY)
    make_message(Status.PUBLISHED, event_type="for.others", published_at=DatabaseNow() - 6 * DAY)
    (finding,) = broker.retention(installation)
    assert finding.level == Level.WARNING
    assert finding.summary.startswith("A message has waited for its handler for 4 days, 0:00:")
