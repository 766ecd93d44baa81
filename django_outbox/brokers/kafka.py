"""Apache Kafka, and whatever speaks its protocol, through kafka-python."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from django.core.exceptions import ImproperlyConfigured

from django_outbox.brokers import tls
from django_outbox.brokers.base import (
    Broker,
    Producer,
    Progress,
    Refused,
    Subscription,
    TopicForbidden,
    TopicMissing,
    TopicPartition,
    TopicSettings,
    TopicTrouble,
)
from django_outbox.brokers.batch import TopicFaults
from django_outbox.brokers.calls import SLICE_SECONDS, Call
from django_outbox.brokers.diagnosis import WORTH_IT_FROM_SECONDS, answering, diagnose, unreachable
from django_outbox.brokers.kafka_client import (
    CLIENT_AT_FAULT,
    CONNECT_SECONDS,
    DROP_UNSENT,
    NetClient,
    connect,
    connection_options,
    error_code,
    error_text,
    tells_of_the_way_in,
    topic_outcome,
)
from django_outbox.brokers.kafka_library import (
    ConfigFilterType,
    ConfigResource,
    ConfigResourceType,
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
    KafkaTopicPartition,
    OffsetAndMetadata,
    OffsetSpec,
    kafka_errors,
)
from django_outbox.brokers.kafka_options import checked
from django_outbox.brokers.kafka_producer import KafkaBrokerProducer, end_client
from django_outbox.brokers.kafka_subscription import KafkaSubscription
from django_outbox.brokers.limits import MAX_RECORD_BYTES
from django_outbox.brokers.refusals import NO_SUCH_NAME, NOT_EVEN_SEEN, NOT_READABLE, may_read, no_leader, refusal
from django_outbox.brokers.secrets import keep
from django_outbox.brokers.url import parse_url
from django_outbox.conf import BrokerSettings
from django_outbox.exceptions import BrokerUnavailable, TopicNotCreated, TopicNotReadable

Client = TypeVar("Client")

_OWN_OPTIONS: dict[type, str] = {KafkaProducer: "PRODUCER_OPTIONS", KafkaConsumer: "CONSUMER_OPTIONS"}

Result = TypeVar("Result")

_ABSENT = (kafka_errors.UnknownTopicOrPartitionError, kafka_errors.InvalidTopicError)


class KafkaBroker(Broker):
    """A Kafka cluster, reached with kafka-python."""

    def __init__(self, settings: BrokerSettings) -> None:
        super().__init__(settings)
        self._url = parse_url(settings.url)
        keep(self._url.username)
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
            "max_block_ms": min(milliseconds, 500),  # then the producer looks whether to go on
            "delivery_timeout_ms": milliseconds,
            "request_timeout_ms": milliseconds * 3 // 4,
            # One partition's share of a batch goes out at once, at 37 us a record where the client's 16 KiB cost 60.
            "batch_size": 131_072,
            "max_request_size": MAX_RECORD_BYTES,
            "metrics_enabled": False,
            "socket_options": KafkaProducer.DEFAULT_CONFIG["socket_options"],
            **self._options(KafkaProducer),
            "enable_idempotence": True,
        }
        options["socket_options"] = [*options["socket_options"], DROP_UNSENT]

        def connect() -> KafkaProducer:
            return self._reach(lambda: self._connect(KafkaProducer, options), undo=end_client)

        return KafkaBrokerProducer(connect, self.location, self._topic_faults, lambda: self.interrupted())

    def subscribe(self, topics: Iterable[str], group: str) -> Subscription:
        options = {
            # Half of Kafka's default: what a dead member had moves on sooner, and a member that
            # was only slow does no harm, as its messages are not handled twice.
            "session_timeout_ms": 10000,
            # As librdkafka does it: what other services send in a transaction that they take back never happened.
            "isolation_level": "read_committed",
            # How soon a member notices partitions of a topic that was extended, or deleted and created again.
            "metadata_max_age_ms": 30_000,
            "metrics_enabled": False,
            **self._options(KafkaConsumer),
            "group_id": group,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
        }
        topics = list(topics)

        def join() -> Subscription:
            client = self._connect(KafkaConsumer, options, partial(NetClient, topics))
            look_up = partial(self._progress_of, group, only_known=True)
            return KafkaSubscription(
                client, topics, self.location, look_up, lambda: self.interrupted(), answering=self._answering
            )

        return self._reach(join, undo=Subscription.close)

    def missing_topics(self, topics: Iterable[str]) -> set[str]:
        faults = self._topic_faults(set(topics))
        return {topic for topic, fault in faults.items() if isinstance(fault, TopicMissing | Refused)}

    def progress(self, topics: Iterable[str], group: str) -> dict[TopicPartition, Progress]:
        topics = list(dict.fromkeys(topics))
        if not topics:
            return {}
        places = []
        for topic in self._ask(lambda admin: admin.describe_topics(topics)):
            error = kafka_errors.for_code(topic["error_code"])
            leaderless = _leaderless(topic)
            if error not in (kafka_errors.NoError, *_ABSENT) or leaderless:
                reason = leaderless or error_text(error())
                raise TopicNotReadable({topic["name"]}, f"{self.location} tells nothing of {topic['name']}: {reason}.")
            places += [TopicPartition(topic["name"], partition["partition_index"]) for partition in topic["partitions"]]
        return self._progress_of(group, places)

    def _progress_of(
        self,
        group: str,
        places: Collection[TopicPartition],
        seconds: float = CONNECT_SECONDS,
        *,
        only_known: bool = False,
    ) -> dict[TopicPartition, Progress]:
        """What the broker tells of these partitions; with ``only_known`` of those that exist and have a leader.

        Raises:
            BrokerUnavailable: with the reason, after as many seconds at most.
        """
        if not places:
            return {}

        def question(admin: KafkaAdminClient) -> dict[TopicPartition, Progress]:
            asked = set(places)
            if only_known:
                asked &= _with_leader(admin.describe_topics(sorted({place.topic for place in places})))
                if not asked:
                    return {}
            theirs = {place: KafkaTopicPartition(place.topic, place.partition) for place in asked}
            low, high = (
                admin.list_partition_offsets(dict.fromkeys(theirs.values(), which), timeout_ms=int(seconds * 1000))
                for which in (OffsetSpec.EARLIEST, OffsetSpec.LATEST)
            )
            committed = admin.list_group_offsets({group: list(theirs.values())})[group]
            return {
                place: Progress(low[their].offset, high[their].offset, _known(committed.get(their)))
                for place, their in theirs.items()
            }

        return self._ask(question, seconds)

    def topic_settings(self, topics: Iterable[str]) -> dict[str, TopicSettings]:
        resources = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in dict.fromkeys(topics)]
        if not resources:
            return {}
        told = self._ask(lambda admin: admin.describe_configs(resources, config_filter=ConfigFilterType.ALL))
        found = {
            topic: TopicSettings.of({name: each["value"] for name, each in values.items()})
            for topic, values in told.get("topic", {}).items()
        }
        return {topic: each for topic, each in found.items() if each is not None}

    def create_topics(self, topics: Iterable[str], *, partitions: int | None, replication: int | None) -> None:
        numbers = {
            "num_partitions": -1 if partitions is None else partitions,
            "replication_factor": -1 if replication is None else replication,
        }
        wanted = dict.fromkeys(topics, numbers)
        if not wanted:
            return

        def create(admin: KafkaAdminClient) -> None:
            response = admin.create_topics(wanted, raise_errors=False)
            for topic in response["topics"]:
                error = kafka_errors.for_code(topic["error_code"])
                if error not in (kafka_errors.NoError, kafka_errors.TopicAlreadyExistsError):
                    raise TopicNotCreated(
                        f"The topic {topic['name']!r} cannot be created: "
                        f"{topic.get('error_message') or error.__name__}."
                    )
            admin.wait_for_topics(list(wanted), timeout_ms=int(CONNECT_SECONDS * 1000))

        self._ask(create, 3 * CONNECT_SECONDS)

    def unreadable_topics(self, topics: Iterable[str]) -> dict[str, TopicTrouble]:
        topics = list(dict.fromkeys(topics))
        if not topics:
            return {}
        faults: dict[str, TopicTrouble] = {}
        for topic in self._ask(lambda admin: admin.describe_topics(topics)):
            name, error = topic["name"], kafka_errors.for_code(topic["error_code"])
            if error is kafka_errors.InvalidTopicError:
                faults[name] = TopicMissing(NO_SUCH_NAME)
            elif error is kafka_errors.TopicAuthorizationFailedError:
                faults[name] = TopicForbidden(NOT_EVEN_SEEN)
            elif error is not kafka_errors.NoError:
                outcome = topic_outcome(error())
                faults[name] = outcome if isinstance(outcome, TopicTrouble) else TopicTrouble(error_text(error()))
            elif not may_read(topic.get("authorized_operations")):
                faults[name] = TopicForbidden(NOT_READABLE)
            elif leaderless := _leaderless(topic):
                faults[name] = TopicTrouble(leaderless)
        return faults

    def _topic_faults(self, topics: Collection[str], seconds: float = CONNECT_SECONDS) -> TopicFaults:
        """Why topics cannot be written to, by topic; those in order are left out.

        Raises:
            BrokerUnavailable: with the reason, after as many seconds at most.
        """
        if not topics:
            return {}
        faults: TopicFaults = {}
        for topic in self._ask(lambda admin: admin.describe_topics(list(topics)), seconds):
            codes = [topic["error_code"], *(partition["error_code"] for partition in topic["partitions"])]
            errors = (kafka_errors.for_code(code)() for code in codes)
            for outcome in map(topic_outcome, errors):
                if outcome is not None:
                    faults.setdefault(topic["name"], outcome)
        return faults

    def _options(self, client: Any) -> dict[str, Any]:
        """What URL and settings say, as far as it concerns this client."""
        given = {name: self._given[key][name] for name, key in self._places(client).items()}
        if given.get("ssl_password", "") is None:
            del given["ssl_password"]
        return connection_options(self._url) | given

    def _places(self, client: Any) -> dict[str, str]:
        """Which options the project sets for a client, and where; the last one counts."""
        own = _OWN_OPTIONS.get(client)
        keys = ["URL", "OPTIONS", *([own] if own else [])]
        return {name: key for key in keys for name in self._given[key] if name in client.DEFAULT_CONFIG}

    def _connect(
        self, client: type[Client], options: Mapping[str, Any], make_net: Callable[..., NetClient] = NetClient
    ) -> Client:
        if "SSL" in options["security_protocol"]:
            tls.of_kafka_python(options).context()  # raises what the client would try again and again
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

    def _ask(self, question: Callable[[KafkaAdminClient], Result], seconds: float = CONNECT_SECONDS) -> Result:
        """What a client for questions is told.

        Raises:
            BrokerUnavailable: with the reason, after as many seconds at most.
        """
        options = {"request_timeout_ms": int(CONNECT_SECONDS * 1000), **self._options(KafkaAdminClient)}
        tries = min(len(self._url.hosts), 2)  # a broker that hangs leaves time to ask another
        # A little less, for the reason to be heard.
        options["bootstrap_timeout_ms"] = min(options["bootstrap_timeout_ms"], int(seconds * 900))
        options["request_timeout_ms"] = min(options["request_timeout_ms"], int(seconds * 900 / tries))

        def ask() -> Result:
            deadline = time.monotonic() + seconds * 0.9
            first: kafka_errors.KafkaError | None = None
            client = self._connect(KafkaAdminClient, options)
            try:
                while True:
                    try:
                        return question(client)
                    except kafka_errors.KafkaError as error:
                        # The client may have chosen the one broker that is away. Its first error says most.
                        first = first or error
                        if tries == 1 or not error.retriable or time.monotonic() >= deadline or self.interrupted():
                            raise (first if error.retriable else error) from None
                        time.sleep(SLICE_SECONDS)
            finally:
                with suppress(Exception):
                    client.close()

        return self._reach(ask, seconds)

    def _reach(
        self,
        call: Callable[[], Result],
        seconds: float = 3 * CONNECT_SECONDS,
        undo: Callable[[Result], object] | None = None,
    ) -> Result:
        """Wait for a call that reaches the broker, so many seconds at most and not beyond an interruption."""
        with self._reaching_it(explaining=seconds >= WORTH_IT_FROM_SECONDS):
            return Call(call, undo).result(seconds, self.interrupted)

    @contextmanager
    def _reaching_it(self, *, explaining: bool) -> Iterator[None]:
        try:
            yield
        except CLIENT_AT_FAULT as error:
            raise BrokerUnavailable(refusal(self.location, error_text(error), error_code(error))) from error
        except (kafka_errors.KafkaError, OSError, RuntimeError) as error:
            if explaining and (finding := self._diagnosis(error)):
                raise BrokerUnavailable(f"{self.location} {finding}.") from error
            answer = self._answering() if explaining else []
            has_login = self._url.username is not None
            raise BrokerUnavailable(
                unreachable(self.location, self._url.hosts, answer, error_text(error), has_login=has_login)
            ) from error

    def _diagnosis(self, error: BaseException) -> str | None:
        """What is wrong with the way in, if the error is of a kind that this may explain."""
        if self.interrupted() or not tells_of_the_way_in(error):
            return None
        return diagnose(*self._way_in(), self.interrupted)

    def _answering(self) -> list[str]:
        """Which of several brokers answer."""
        return answering(*self._way_in(), self.interrupted)

    def _way_in(self) -> tuple[Sequence[str], str, tls.TLS]:
        options = self._options(KafkaAdminClient)
        return self._url.hosts, options["security_protocol"], tls.of_kafka_python(options)


def _leaderless(topic: Mapping[str, Any]) -> str:
    """Which partitions have no leader; empty if all have one."""
    return no_leader(each["partition_index"] for each in topic["partitions"] if each["leader_id"] < 0)


def _with_leader(described: Iterable[Mapping[str, Any]]) -> set[TopicPartition]:
    return {
        TopicPartition(topic["name"], partition["partition_index"])
        for topic in described
        for partition in topic["partitions"]
        if partition["leader_id"] >= 0
    }


def _known(committed: OffsetAndMetadata | None) -> int | None:
    return None if committed is None or committed.offset < 0 else int(committed.offset)
