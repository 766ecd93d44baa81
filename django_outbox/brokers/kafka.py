"""Apache Kafka, and whatever speaks its protocol, through kafka-python."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from django.core.exceptions import ImproperlyConfigured
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka import TopicPartition as KafkaTopicPartition
from kafka import errors as kafka_errors
from kafka.admin import OffsetSpec
from kafka.structs import OffsetAndMetadata

from django_outbox.brokers.base import Broker, Producer, Progress, Subscription, TopicPartition
from django_outbox.brokers.kafka_client import (
    CLIENT_AT_FAULT,
    CONNECT_SECONDS,
    DROP_UNSENT,
    NetClient,
    connect,
    connection_options,
    error_text,
)
from django_outbox.brokers.kafka_options import checked
from django_outbox.brokers.kafka_producer import KafkaBrokerProducer, TopicFaults
from django_outbox.brokers.kafka_subscription import KafkaSubscription
from django_outbox.brokers.url import parse_url
from django_outbox.conf import BrokerSettings
from django_outbox.exceptions import BrokerUnavailable, TopicNotCreated

Client = TypeVar("Client")

_OWN_OPTIONS: dict[type, str] = {KafkaProducer: "PRODUCER_OPTIONS", KafkaConsumer: "CONSUMER_OPTIONS"}

_ABSENT = (kafka_errors.UnknownTopicOrPartitionError, kafka_errors.InvalidTopicError)


class KafkaBroker(Broker):
    """A Kafka cluster, reached with kafka-python."""

    def __init__(self, settings: BrokerSettings) -> None:
        super().__init__(settings)
        self._url = parse_url(settings.url)
        self._given = {
            "URL": checked("URL", self._url.options),
            "OPTIONS": checked("OPTIONS", settings.options),
            "PRODUCER_OPTIONS": checked("PRODUCER_OPTIONS", settings.producer_options),
            "CONSUMER_OPTIONS": checked("CONSUMER_OPTIONS", settings.consumer_options),
        }

    @property
    def location(self) -> str:
        return self._url.location

    def producer(self, timeout: float) -> Producer:
        milliseconds = max(int(timeout * 1000), 10)
        options = {
            "max_block_ms": min(milliseconds, 5000),
            "delivery_timeout_ms": milliseconds,
            "request_timeout_ms": milliseconds * 3 // 4,
            "metrics_enabled": False,
            "socket_options": KafkaProducer.DEFAULT_CONFIG["socket_options"],
            **self._options(KafkaProducer),
            "enable_idempotence": True,
        }
        options["socket_options"] = [*options["socket_options"], DROP_UNSENT]

        def connect() -> KafkaProducer:
            with self._reaching_it():
                return self._connect(KafkaProducer, options)

        return KafkaBrokerProducer(connect, self.location, self._topic_faults)

    def subscribe(self, topics: Iterable[str], group: str) -> Subscription:
        options = {
            # Half of Kafka's default: what a dead member had moves on sooner, and a member that
            # was only slow does no harm, as its messages are not handled twice.
            "session_timeout_ms": 10000,
            "metrics_enabled": False,
            **self._options(KafkaConsumer),
            "group_id": group,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
        }
        topics = list(topics)
        with self._reaching_it():
            client = self._connect(KafkaConsumer, options, partial(NetClient, topics))
            return KafkaSubscription(client, topics, self.location, partial(self._progress_of, group))

    def missing_topics(self, topics: Iterable[str]) -> set[str]:
        faults = self._topic_faults(set(topics))
        return {topic for topic, error in faults.items() if isinstance(error, _ABSENT)}

    def progress(self, topics: Iterable[str], group: str) -> dict[TopicPartition, Progress]:
        topics = list(dict.fromkeys(topics))
        if not topics:
            return {}
        with self._reaching_it(), self._admin(CONNECT_SECONDS / 2) as admin:
            places = []
            for topic in admin.describe_topics(topics):
                error = kafka_errors.for_code(topic["error_code"])
                if error not in (kafka_errors.NoError, *_ABSENT):
                    raise error(topic["name"])
                places += [
                    TopicPartition(topic["name"], partition["partition_index"]) for partition in topic["partitions"]
                ]
        return self._progress_of(group, places)

    def _progress_of(
        self, group: str, places: Collection[TopicPartition], seconds: float = CONNECT_SECONDS
    ) -> dict[TopicPartition, Progress]:
        """What the broker tells of these partitions.

        Raises:
            BrokerUnavailable: with the reason; a question without an answer takes half of the seconds.
        """
        if not places:
            return {}
        theirs = [KafkaTopicPartition(place.topic, place.partition) for place in places]
        with self._reaching_it(), self._admin(seconds / 2) as admin:
            low, high = (
                admin.list_partition_offsets(dict.fromkeys(theirs, which), timeout_ms=int(seconds * 500))
                for which in (OffsetSpec.EARLIEST, OffsetSpec.LATEST)
            )
            committed = admin.list_group_offsets({group: theirs})[group]
        return {
            place: Progress(low[their].offset, high[their].offset, _known(committed.get(their)))
            for place, their in zip(places, theirs, strict=True)
        }

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

    def _topic_faults(self, topics: Collection[str], timeout: float = 2 * CONNECT_SECONDS) -> TopicFaults:
        """Why topics cannot be written to, by topic; those in order are left out.

        Raises:
            BrokerUnavailable: with the reason, after ``timeout`` at most.
        """
        if not topics:
            return {}
        # To connect and to ask may each take its time.
        with self._reaching_it(), self._admin(min(CONNECT_SECONDS, timeout / 2)) as admin:
            described = admin.describe_topics(list(topics))
        errors = {topic["name"]: kafka_errors.for_code(topic["error_code"]) for topic in described}
        return {topic: error() for topic, error in errors.items() if error is not kafka_errors.NoError}

    def _options(self, client: Any) -> dict[str, Any]:
        """What URL and settings say, as far as it concerns this client."""
        given = {name: self._given[key][name] for name, key in self._places(client).items()}
        return connection_options(self._url) | given

    def _places(self, client: Any) -> dict[str, str]:
        """Which options the project sets for a client, and where; the last one counts."""
        own = _OWN_OPTIONS.get(client)
        keys = ["URL", "OPTIONS", *([own] if own else [])]
        return {name: key for key in keys for name in self._given[key] if name in client.DEFAULT_CONFIG}

    def _connect(
        self, client: type[Client], options: Mapping[str, Any], make_net: Callable[..., NetClient] = NetClient
    ) -> Client:
        try:
            return connect(client, options, make_net)
        except (kafka_errors.KafkaConfigurationError, RuntimeError) as error:
            raise self._refused(client, str(error)) from error
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:  # of an ssl_ option
            raise self._refused(client, str(error)) from error
        except (kafka_errors.KafkaError, OSError):
            raise
        except Exception as error:  # its text may show a password
            raise self._refused(client, type(error).__name__) from error

    def _refused(self, client: type, reason: str) -> ImproperlyConfigured:
        places = ", ".join(f'OUTBOX["BROKER"]["{key}"] ({name})' for name, key in self._places(client).items())
        return ImproperlyConfigured(
            f"kafka-python refuses its options: {reason}. They are in {places or 'no setting'}."
        )

    @contextmanager
    def _admin(self, timeout: float = CONNECT_SECONDS) -> Iterator[KafkaAdminClient]:
        options = {"request_timeout_ms": int(CONNECT_SECONDS * 1000), **self._options(KafkaAdminClient)}
        for name in ("bootstrap_timeout_ms", "request_timeout_ms"):
            options[name] = min(options[name], int(timeout * 1000))
        client = self._connect(KafkaAdminClient, options)
        try:
            yield client
        finally:
            with suppress(Exception):
                client.close()

    @contextmanager
    def _reaching_it(self) -> Iterator[None]:
        try:
            yield
        except CLIENT_AT_FAULT as error:
            raise BrokerUnavailable(f"{self.location} refuses this client: {error_text(error)}.") from error
        except (kafka_errors.KafkaError, OSError, RuntimeError) as error:
            login = ", with its user and password" if self._url.username else ""
            raise BrokerUnavailable(
                f"{self.location} cannot be reached ({error_text(error)}): is it running, and is "
                f'OUTBOX["BROKER"]["URL"] right{login}?'
            ) from error


def _known(committed: OffsetAndMetadata | None) -> int | None:
    return None if committed is None or committed.offset < 0 else int(committed.offset)
