"""Kafka's error codes mean the same, whichever client library reports them."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException
from kafka import errors as kafka_errors

from django_outbox.brokers.base import TopicForbidden, TopicMissing, TopicTrouble
from django_outbox.brokers.confluent.errors import client_error as librdkafka_error
from django_outbox.brokers.errors import ClientError, Code, refusal, topic_result
from django_outbox.brokers.kafka.errors import client_error as kafka_python_error

SERVER_ERROR, UNKNOWN_TO_ALL = -1, 9999


@pytest.mark.parametrize("code", [*Code, SERVER_ERROR, UNKNOWN_TO_ALL], ids=str)
def test_both_libraries_report_the_same_code_with_the_same_consequences(code: int) -> None:
    found = [kafka_python_error(kafka_errors.for_code(code)("why")), librdkafka_error(KafkaError(code, "why"))]
    assert [error.code for error in found] == [code, code]
    assert "why" in found[0].text
    assert found[1].text == "why"
    assert len({(error.ends_producer, error.fails_record, type(topic_result(error))) for error in found}) == 1


def test_a_code_that_nobody_knows_fails_the_record() -> None:
    error = ClientError(UNKNOWN_TO_ALL, "why")
    assert error.fails_record
    assert not error.ends_producer
    assert topic_result(error) is None


@pytest.mark.parametrize(
    ("own", "code"),
    [
        (KafkaError._ASSIGNMENT_LOST, Code.REBALANCE_IN_PROGRESS),
        (KafkaError._AUTHENTICATION, Code.SASL_AUTHENTICATION_FAILED),
        (KafkaError._UNKNOWN_TOPIC, Code.UNKNOWN_TOPIC_OR_PARTITION),
        (KafkaError._UNSUPPORTED_FEATURE, Code.UNSUPPORTED_VERSION),
        (KafkaError._WAIT_COORD, Code.COORDINATOR_NOT_AVAILABLE),
    ],
)
def test_an_error_of_librdkafka_itself_has_the_code_that_says_the_same(own: int, code: Code) -> None:
    assert librdkafka_error(KafkaException(KafkaError(own, "why"))).code == code


def test_a_login_that_fails_has_the_code_of_its_reason() -> None:
    error = KafkaError(KafkaError._AUTHENTICATION, "Unsupported SASL mechanism: broker's are PLAIN")
    assert librdkafka_error(error).code == Code.UNSUPPORTED_SASL_MECHANISM


def test_a_commit_that_a_rebalance_overtook_is_one_of_a_rebalance() -> None:
    assert kafka_python_error(kafka_errors.CommitFailedError()).code == Code.REBALANCE_IN_PROGRESS


def test_a_topic_s_error_is_an_outcome_of_its_records() -> None:
    outcomes = [
        topic_result(ClientError(code, "why"))
        for code in (Code.UNKNOWN_TOPIC_OR_PARTITION, Code.TOPIC_AUTHORIZATION_FAILED, Code.LEADER_NOT_AVAILABLE)
    ]
    assert outcomes == [TopicMissing(), TopicForbidden("why"), TopicTrouble("why")]


def test_a_refusal_says_what_to_do_about_it() -> None:
    assert refusal("kafka://host:9092", ClientError(Code.TOPIC_AUTHORIZATION_FAILED, "Not allowed.")) == (
        "kafka://host:9092 refuses this client: Not allowed. Allow it to read the topic, by an ACL for the operation Read."
    )
    assert refusal("kafka://host:9092", ClientError(None, "why")) == "kafka://host:9092 refuses this client: why."
