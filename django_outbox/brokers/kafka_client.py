"""What kafka-python's clients need to be told and what their errors mean.

Facts about the client (version 3.0) that shape these modules: a topic that does not exist cannot be
told from an outage by the producer, which also creates it unasked, so topics are looked up before
they are used; a producer that missed a deadline may never send again, so it is thrown away.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TypeVar

from kafka import KafkaAdminClient
from kafka import errors as kafka_errors

from django_outbox.brokers.base import MISSING_TOPIC
from django_outbox.brokers.url import BrokerURL

CONNECT_SECONDS = 5.0
CLOSE_SECONDS = 1.0

Client = TypeVar("Client")

REFUSED_FOR_GOOD = (
    kafka_errors.MessageSizeTooLargeError,
    kafka_errors.RecordListTooLargeError,
    kafka_errors.InvalidTopicError,
    kafka_errors.InvalidRecordError,
)
TOPIC_AT_FAULT = (
    kafka_errors.UnknownTopicOrPartitionError,
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.LeaderNotAvailableError,
    kafka_errors.NotEnoughReplicasError,
    kafka_errors.NotEnoughReplicasAfterAppendError,
    kafka_errors.PolicyViolationError,
)
PRODUCER_AT_FAULT = (
    kafka_errors.OutOfOrderSequenceNumberError,
    kafka_errors.InvalidProducerEpochError,
    kafka_errors.UnknownProducerIdError,
    kafka_errors.IllegalStateError,
)
CLIENT_AT_FAULT = (
    kafka_errors.AuthorizationError,
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.UnsupportedVersionError,
)


def connection_options(url: BrokerURL) -> dict[str, Any]:
    options: dict[str, Any] = {
        "bootstrap_servers": list(url.hosts),
        "bootstrap_timeout_ms": int(CONNECT_SECONDS * 1000),
        "security_protocol": url.protocol,
        # Found again quickly after an outage, at the price of a try a second.
        "reconnect_backoff_max_ms": 1000,
    }
    if url.username is not None:
        options.update(
            sasl_mechanism="PLAIN",
            sasl_plain_username=url.username,
            sasl_plain_password=url.password,
        )
    return options


def connect(client_class: type[Client], options: dict[str, Any]) -> Client:
    """Make a client. One that cannot connect would leave its I/O thread behind: end it."""
    client: Any = client_class.__new__(client_class)
    try:
        client.__init__(**options)
    except BaseException:
        net = getattr(client, "_net", None)
        if net is not None:
            with suppress(Exception):
                net.stop()
        raise
    return client  # type: ignore[no-any-return]


def topic_faults(admin: KafkaAdminClient, topics: Iterable[str]) -> dict[str, str]:
    """Why topics cannot be written to, by topic; those in order are left out."""
    faults = {}
    for topic in admin.describe_topics(list(topics)):
        error = kafka_errors.for_code(topic["error_code"])
        if error is kafka_errors.UnknownTopicOrPartitionError:
            faults[topic["name"]] = MISSING_TOPIC
        elif error is not kafka_errors.NoError:
            faults[topic["name"]] = error.__name__
    return faults


def error_text(error: BaseException) -> str:
    return str(error) or type(error).__name__
