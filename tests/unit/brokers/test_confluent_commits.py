"""Which reports of confluent-kafka answer a commit."""

from __future__ import annotations

from confluent_kafka import KafkaError
from confluent_kafka import TopicPartition as KafkaTopicPartition

from django_outbox.brokers.base import TopicPartition
from django_outbox.brokers.confluent.commits import CommitReports

OFFSETS = {TopicPartition("one", 0): 3, TopicPartition("other", 1): 4}


class Place(KafkaTopicPartition):
    """A place with an error, which only the library can set."""

    error: KafkaError | None = None


def places(*, error: KafkaError | None = None, **offsets: int) -> list[KafkaTopicPartition]:
    made = [Place("one", 0, offsets.get("one", 3)), Place("other", 1, offsets.get("other", 4))]
    made[1].error = error
    return list(made)


class Topics(Exception):
    """An error that names its topics."""


def as_exception(error: KafkaError, topics: object) -> Exception:
    return Topics(error.code(), topics)


def test_a_report_answers_the_commit_of_its_offsets() -> None:
    reports = CommitReports()
    answer = reports.expect(OFFSETS, as_exception)
    reports(None, places(one=2))
    reports(None, places()[:1])
    assert not answer.done()
    reports(None, places())
    assert answer.result(0) is None


def test_a_report_that_nobody_waits_for_is_passed_over() -> None:
    reports = CommitReports()
    reports(None, places())
    answer = reports.expect(OFFSETS, as_exception)
    reports(None, places())
    reports(KafkaError(KafkaError._FAIL), places())
    assert answer.result(0) is None


def test_an_error_names_the_topics_that_it_concerns() -> None:
    reports = CommitReports()
    answer = reports.expect(OFFSETS, as_exception)
    denied = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    reports(None, places(error=denied))
    assert answer.exception(0).args == (denied.code(), {"other"})
    answer = reports.expect(OFFSETS, as_exception)
    reports(denied, places())
    assert answer.exception(0).args == (denied.code(), {"one", "other"})
