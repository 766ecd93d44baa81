"""Apache Kafka, and whatever speaks its protocol, through kafka-python."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka import errors as kafka_errors

from django_outbox.brokers.base import MISSING_TOPIC, Broker, Producer, Subscription
from django_outbox.brokers.kafka_client import (
    CLIENT_AT_FAULT,
    CONNECT_SECONDS,
    connect,
    connection_options,
    error_text,
    topic_faults,
)
from django_outbox.brokers.kafka_producer import KafkaBrokerProducer
from django_outbox.brokers.kafka_subscription import KafkaSubscription
from django_outbox.brokers.url import parse_url
from django_outbox.conf import BrokerSettings
from django_outbox.exceptions import BrokerUnavailable, TopicNotCreated

# Options on which the guarantees rest. Others may be set as the project likes.
_FIXED_PRODUCER_OPTIONS = frozenset(
    {"acks", "enable_idempotence", "key_serializer", "transactional_id", "value_serializer"}
)
_FIXED_CONSUMER_OPTIONS = frozenset({"enable_auto_commit", "group_id", "key_deserializer", "value_deserializer"})


class KafkaBroker(Broker):
    """A Kafka cluster, reached with kafka-python."""

    def __init__(self, settings: BrokerSettings) -> None:
        super().__init__(settings)
        self._url = parse_url(settings.url)
        self._shared = {**self._url.options, **settings.options}
        self._check_options()

    @property
    def location(self) -> str:
        return self._url.location

    def producer(self, timeout: float) -> Producer:
        milliseconds = int(timeout * 1000)
        defaults = {
            "max_block_ms": min(milliseconds, 5000),
            "delivery_timeout_ms": milliseconds,
            "request_timeout_ms": max(milliseconds * 3 // 4, 1),
            "metrics_enabled": False,
        }
        options = self._options(KafkaProducer, defaults, self.settings.producer_options)
        options["enable_idempotence"] = True
        with self._reaching_it():
            return KafkaBrokerProducer(connect(KafkaProducer, options), self._admin)

    def subscribe(self, topics: Iterable[str], group: str) -> Subscription:
        defaults = {
            "auto_offset_reset": "earliest",
            # Half of Kafka's default: what a dead member had moves on sooner, and a member that
            # was only slow does no harm, as its messages are not handled twice.
            "session_timeout_ms": 10000,
            "metrics_enabled": False,
        }
        options = self._options(KafkaConsumer, defaults, self.settings.consumer_options)
        options.update(group_id=group, enable_auto_commit=False)
        with self._reaching_it():
            return KafkaSubscription(connect(KafkaConsumer, options), list(topics), self.location)

    def missing_topics(self, topics: Iterable[str]) -> set[str]:
        with self._reaching_it(), self._admin() as admin:
            return {topic for topic, reason in topic_faults(admin, topics).items() if reason is MISSING_TOPIC}

    def create_topics(self, topics: Iterable[str], *, partitions: int | None, replication: int | None) -> None:
        numbers = {
            "num_partitions": -1 if partitions is None else partitions,
            "replication_factor": -1 if replication is None else replication,
        }
        wanted = dict.fromkeys(topics, numbers)
        if not wanted:
            return
        with self._reaching_it(), self._admin() as admin:
            response = admin.create_topics(wanted, raise_errors=False)
            for topic in response["topics"]:
                error = kafka_errors.for_code(topic["error_code"])
                if error not in (kafka_errors.NoError, kafka_errors.TopicAlreadyExistsError):
                    raise TopicNotCreated(
                        f"The topic {topic['name']!r} cannot be created: "
                        f"{topic.get('error_message') or error.__name__}."
                    )
            admin.wait_for_topics(list(wanted), timeout_ms=int(CONNECT_SECONDS * 1000))

    def _options(self, client: type, defaults: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
        known = client.DEFAULT_CONFIG  # type: ignore[attr-defined]
        shared = {name: value for name, value in self._shared.items() if name in known}
        return {**defaults, **connection_options(self._url), **shared, **own}

    @contextmanager
    def _admin(self) -> Iterator[KafkaAdminClient]:
        client = connect(
            KafkaAdminClient,
            self._options(KafkaAdminClient, {"request_timeout_ms": int(CONNECT_SECONDS * 1000)}, {}),
        )
        try:
            yield client
        finally:
            with suppress(Exception):
                client.close()

    @contextmanager
    def _reaching_it(self) -> Iterator[None]:
        try:
            yield
        except kafka_errors.KafkaConfigurationError as error:
            raise ImproperlyConfigured(f"kafka-python refuses its options: {error}") from error
        except CLIENT_AT_FAULT as error:
            raise BrokerUnavailable(f"{self.location} refuses this client: {error_text(error)}.") from error
        except (kafka_errors.KafkaError, OSError) as error:
            raise BrokerUnavailable(
                f"{self.location} cannot be reached ({error_text(error)}). Is it running, and is "
                f'OUTBOX["BROKER"]["URL"] right?'
            ) from error

    def _check_options(self) -> None:
        """Name what is wrong here; the client would print values, and so passwords."""
        clients: dict[str, tuple[Mapping[str, Any], tuple[type, ...], frozenset[str]]] = {
            "OPTIONS": (
                self._shared,
                (KafkaProducer, KafkaConsumer, KafkaAdminClient),
                _FIXED_PRODUCER_OPTIONS | _FIXED_CONSUMER_OPTIONS,
            ),
            "PRODUCER_OPTIONS": (
                self.settings.producer_options,
                (KafkaProducer,),
                _FIXED_PRODUCER_OPTIONS,
            ),
            "CONSUMER_OPTIONS": (
                self.settings.consumer_options,
                (KafkaConsumer,),
                _FIXED_CONSUMER_OPTIONS,
            ),
        }
        for key, (options, classes, fixed) in clients.items():
            for name in options:
                if name in fixed:
                    raise ImproperlyConfigured(
                        f'OUTBOX["BROKER"]["{key}"] must not set {name!r}: the delivery guarantees '
                        f"rest on the value that the outbox gives it."
                    )
                if not any(name in kafka_class.DEFAULT_CONFIG for kafka_class in classes):  # type: ignore[attr-defined]
                    raise ImproperlyConfigured(
                        f'OUTBOX["BROKER"]["{key}"] (or the URL) has an option that kafka-python '
                        f"does not know: {name!r}."
                    )
