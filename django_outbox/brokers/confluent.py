"""Apache Kafka, and whatever speaks its protocol, through confluent-kafka: the fastest way."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
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
from django_outbox.brokers.calls import CLOSE_SECONDS, SLICE_SECONDS, close_in_time
from django_outbox.brokers.confluent_client import (
    CONNECT_SECONDS,
    SEND_BUFFER_BYTES,
    TOPIC_IS_MISSING,
    Faults,
    await_answers,
    await_broker,
    connection_options,
    error_text,
    has_answer,
    is_of_client,
    log,
    topic_outcome,
)
from django_outbox.brokers.confluent_library import (
    FIRST_OFFSET,
    LAST_OFFSET,
    AdminClient,
    ConfigResource,
    Consumer,
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    NewTopic,
    TopicCollection,
)
from django_outbox.brokers.confluent_library import Producer as KafkaProducer
from django_outbox.brokers.confluent_library import TopicPartition as KafkaTopicPartition
from django_outbox.brokers.confluent_options import checked
from django_outbox.brokers.confluent_producer import ConfluentBrokerProducer
from django_outbox.brokers.confluent_subscription import ConfluentSubscription
from django_outbox.brokers.diagnosis import WORTH_IT_FROM_SECONDS, answering, diagnose
from django_outbox.brokers.limits import MAX_RECORD_BYTES
from django_outbox.brokers.refusals import NO_SUCH_NAME, NOT_EVEN_SEEN, NOT_READABLE, may_read, no_leader
from django_outbox.brokers.secrets import keep
from django_outbox.brokers.tansu import is_tansu
from django_outbox.brokers.url import parse_url
from django_outbox.conf import BrokerSettings
from django_outbox.exceptions import NoAnswer, TopicNotCreated, TopicNotReadable

Client = TypeVar("Client", KafkaProducer, Consumer)
Made = TypeVar("Made")
_Described = dict[str, Future[Any]]

_ABSENT = TOPIC_IS_MISSING | {KafkaError.TOPIC_EXCEPTION}
_ANY_TOPIC = "__consumer_offsets"  # Kafka's own; that it may not be seen, or is missing, is an answer, too
_LONGEST_TIMEOUT_MS = 300_000  # of a request; the library takes no longer one


class ConfluentBroker(Broker):
    """A Kafka cluster, reached with confluent-kafka.

    Members of one group may use this backend or that of kafka-python, side by side: both know the
    strategies ``range`` and ``roundrobin``, and neither alone decides. Where all use this one,
    ``CONSUMER_OPTIONS`` may choose ``cooperative-sticky``. kafka-python (3.0) knows that strategy,
    too, but its member that was away for too long claims what others have got since.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        super().__init__(settings)
        self._url = parse_url(settings.url)
        keep(self._url.username, self._url.password)
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
            "message.timeout.ms": milliseconds,
            "socket.timeout.ms": min(max(milliseconds * 3 // 4, 10), _LONGEST_TIMEOUT_MS),
            # As kafka-python and Java do it, so that a key stays in its partition whoever sends it.
            "partitioner": "murmur2_random",
            "message.max.bytes": MAX_RECORD_BYTES,
            # A topic is looked up before it is used. One that is unknown after that was deleted.
            "topic.metadata.propagation.max.ms": min(milliseconds // 2, 5000),
            **self._options("PRODUCER_OPTIONS"),
            "acks": "all",
            "allow.auto.create.topics": False,
            "enable.idempotence": True,
            "socket.send.buffer.bytes": SEND_BUFFER_BYTES,
        }
        faults = self._faults()
        client = self._connect(KafkaProducer, options, faults, self._knock)
        return ConfluentBrokerProducer(client, faults, self._topic_faults, lambda: self.interrupted())

    def subscribe(self, topics: Iterable[str], group: str) -> Subscription:
        options = {
            # Half of Kafka's default: what a dead member had moves on sooner, and a member that
            # was only slow does no harm, as its messages are not handled twice.
            "session.timeout.ms": 10000,
            "partition.assignment.strategy": "range,roundrobin",
            # How soon a member notices partitions of a topic that was extended, or deleted and created again.
            "topic.metadata.refresh.interval.ms": 30_000,
            # As kafka-python and Java do it: what disk or network have changed must not reach a handler.
            "check.crcs": True,
            **self._options("CONSUMER_OPTIONS"),
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "allow.auto.create.topics": False,
            "enable.partition.eof": True,
        }
        topics = list(dict.fromkeys(topics))
        faults = self._faults()
        knock = partial(self._knock, topics=topics)
        client = self._connect(Consumer, options, faults, knock)
        can_leave = partial(self._can_leave_tansu, group) if self._is_tansu(client) else lambda: True
        return ConfluentSubscription(
            client, faults, topics, partial(self._look_up, group), knock, lambda: self.interrupted(), can_leave
        )

    def _is_tansu(self, client: Consumer) -> bool:
        try:
            return is_tansu(client.list_topics(_ANY_TOPIC, CLOSE_SECONDS).cluster_id)
        except KafkaException:
            return False

    def _can_leave_tansu(self, group: str) -> bool:
        """True if no rebalance of the group is under way, or the broker does not tell. Also asked while the process ends."""
        admin = self._make(AdminClient, self._options(), self._faults())
        try:
            answer = admin.describe_consumer_groups([group], request_timeout=CONNECT_SECONDS)[group]
            # Kafka has a name for each state. Tansu has none for a group with a leader during a rebalance.
            return bool(answer.result(2 * CONNECT_SECONDS).state != ConsumerGroupState.UNKNOWN)
        except (KafkaException, TimeoutError):
            return True
        finally:
            self._close(partial(admin.__exit__, None, None, None))

    def missing_topics(self, topics: Iterable[str]) -> set[str]:
        faults = self._topic_faults(set(topics))
        return {topic for topic, fault in faults.items() if isinstance(fault, TopicMissing | Refused)}

    def progress(self, topics: Iterable[str], group: str) -> dict[TopicPartition, Progress]:
        topics = set(topics)
        if not topics:
            return {}
        with self._admin(topics) as (admin, faults, described):
            absent = self._errors(described, faults)
            present = {topic: described[topic].result() for topic in described.keys() - absent.keys()}
            untold = {topic: error_text(error) for topic, error in absent.items() if error.code() not in _ABSENT}
            untold |= {topic: reason for topic, each in present.items() if (reason := _leaderless(each))}
            for topic, reason in untold.items():
                raise TopicNotReadable({topic}, f"{self.location} tells nothing of {topic}: {reason}.")
            places = [
                TopicPartition(topic, partition.id) for topic, each in present.items() for partition in each.partitions
            ]
            return self._progress_of(admin, faults, group, places, CONNECT_SECONDS)

    def _look_up(
        self, group: str, places: Collection[TopicPartition], seconds: float
    ) -> dict[TopicPartition, Progress]:
        """How far a group is in those of these partitions that exist and have a leader.

        Raises:
            BrokerUnavailable: with the reason; to connect and to ask takes so many seconds each at most.
        """
        if not places:
            return {}
        with self._admin({place.topic for place in places}, seconds) as (admin, faults, described):
            absent = self._errors(described, faults)
            known = {
                TopicPartition(topic, partition.id)
                for topic in described.keys() - absent.keys()
                for partition in described[topic].result().partitions
                if _has_leader(partition)
            }
            return self._progress_of(admin, faults, group, known.intersection(places), seconds)

    def _progress_of(
        self, admin: AdminClient, faults: Faults, group: str, places: Collection[TopicPartition], seconds: float
    ) -> dict[TopicPartition, Progress]:
        if not places:
            return {}
        theirs = [KafkaTopicPartition(place.topic, place.partition) for place in places]
        first, last = (
            admin.list_offsets(dict.fromkeys(theirs, which), request_timeout=seconds)
            for which in (FIRST_OFFSET, LAST_OFFSET)
        )
        asked = admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group, theirs)], request_timeout=seconds
        )
        await_answers([*first.values(), *last.values(), *asked.values()], faults, self.interrupted)
        try:
            low, high = (
                {_ours(place): answer.result().offset for place, answer in found.items()} for found in (first, last)
            )
            committed = {_ours(place): place.offset for place in asked[group].result().topic_partitions}
        except KafkaException as error:
            raise faults.unreachable(error.args[0]) from error
        return {
            place: Progress(low[place], high[place], committed[place] if committed.get(place, -1) >= 0 else None)
            for place in places
        }

    def topic_settings(self, topics: Iterable[str]) -> dict[str, TopicSettings]:
        topics = list(dict.fromkeys(topics))
        if not topics:
            return {}
        with self._admin(topics) as (admin, faults, _):
            resources = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics]
            answers = admin.describe_configs(resources, request_timeout=CONNECT_SECONDS)
            by_topic = {resource.name: answer for resource, answer in answers.items()}
            absent = self._errors(by_topic, faults)
            found = {
                topic: TopicSettings.of({name: each.value for name, each in answer.result().items()})
                for topic, answer in by_topic.items()
                if topic not in absent
            }
        return {topic: each for topic, each in found.items() if each is not None}

    def create_topics(self, topics: Iterable[str], *, partitions: int | None, replication: int | None) -> None:
        topics = list(dict.fromkeys(topics))
        if not topics:
            return
        wanted = [
            NewTopic(
                topic,
                num_partitions=-1 if partitions is None else partitions,
                replication_factor=-1 if replication is None else replication,
            )
            for topic in topics
        ]
        with self._admin(topics) as (admin, faults, _):
            answers = admin.create_topics(wanted, request_timeout=CONNECT_SECONDS, operation_timeout=CONNECT_SECONDS)
            for topic, error in self._errors(answers, faults).items():
                if error.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise TopicNotCreated(f"The topic {topic!r} cannot be created: {error_text(error)}.")
            deadline = time.monotonic() + CONNECT_SECONDS
            while self._trouble(_describe(admin, topics, CONNECT_SECONDS), faults) and time.monotonic() < deadline:
                time.sleep(0.05)  # until the news has got around in the cluster

    def unreadable_topics(self, topics: Iterable[str]) -> dict[str, TopicTrouble]:
        topics = list(dict.fromkeys(topics))
        if not topics:
            return {}
        faults: dict[str, TopicTrouble] = {}
        with self._admin(topics, with_rights=True) as (_, told, described):
            for topic, error in self._errors(described, told).items():
                if error.code() == KafkaError.TOPIC_EXCEPTION:
                    faults[topic] = TopicMissing(NO_SUCH_NAME)
                elif error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    faults[topic] = TopicForbidden(NOT_EVEN_SEEN)
                else:
                    outcome = topic_outcome(error)
                    faults[topic] = outcome if isinstance(outcome, TopicTrouble) else TopicTrouble(error_text(error))
        for topic in described.keys() - faults.keys():
            description = described[topic].result()
            if not may_read([operation.name for operation in description.authorized_operations or ()]):
                faults[topic] = TopicForbidden(NOT_READABLE)
            elif leaderless := _leaderless(description):
                faults[topic] = TopicTrouble(leaderless)
        return faults

    def _topic_faults(self, topics: Collection[str], seconds: float = CONNECT_SECONDS) -> TopicFaults:
        """Why topics cannot be written to, by topic; those in order are left out.

        Raises:
            BrokerUnavailable: with the reason, after as many seconds at most.
        """
        if not topics:
            return {}
        # The rest is for finding out why none answers, if there is time for that.
        share = 0.5 if seconds >= WORTH_IT_FROM_SECONDS else 0.9
        with self._admin(topics, seconds * share) as (_, faults, described):
            return self._trouble(described, faults)

    def _trouble(self, described: _Described, faults: Faults) -> TopicFaults:
        """Why topics cannot be written to, by topic; those in order are left out."""
        errors = self._errors(described, faults)
        found: TopicFaults = {
            topic: topic_outcome(error) or TopicTrouble(error_text(error)) for topic, error in errors.items()
        }
        for topic in described.keys() - errors.keys():
            if leaderless := _leaderless(described[topic].result()):
                found[topic] = TopicTrouble(leaderless)
        return found

    def _errors(self, answers: Mapping[str, Future[Any]], faults: Faults) -> dict[str, KafkaError]:
        """What went wrong with topics.

        Raises:
            BrokerUnavailable: there was no answer, or one that concerns the client.
        """
        await_answers(answers.values(), faults, self.interrupted)
        errors: dict[str, KafkaError] = {}
        for topic, answer in answers.items():
            exception = answer.exception()
            if exception is None:
                continue
            error: KafkaError = exception.args[0]
            if is_of_client(error):
                raise faults.unreachable(error) from exception
            errors[topic] = error
        return errors

    def _knock(self, seconds: float, topics: Collection[str] = (_ANY_TOPIC,)) -> None:
        """See whether a broker answers within so many seconds.

        Raises:
            BrokerUnavailable: none does.
        """
        try:
            with self._admin(topics, seconds):
                """One has answered."""
        except NoAnswer as error:
            if not error.answering:  # or only the broker that the library asked is away
                raise

    def _options(self, key: str | None = None) -> dict[str, Any]:
        """What URL and settings say, as far as it concerns a client."""
        options = connection_options(self._url)
        for place in ("URL", "OPTIONS", *([key] if key else [])):
            options |= self._given[place]
        return options

    def _faults(self) -> Faults:
        has_login = self._url.username is not None
        return Faults(
            self.location, self._url.hosts, has_login=has_login, diagnose=self._diagnose, answering=self._answering
        )

    def _diagnose(self) -> str | None:
        return None if self.interrupted() else diagnose(*self._way_in(), self.interrupted)

    def _answering(self) -> list[str]:
        """Which of several brokers answer."""
        return answering(*self._way_in(), self.interrupted)

    def _way_in(self) -> tuple[Sequence[str], str, tls.TLS]:
        options = self._options()
        return self._url.hosts, str(options["security.protocol"]).upper(), tls.of_librdkafka(options)

    def _connect(
        self, kind: Callable[..., Client], options: Mapping[str, Any], faults: Faults, knock: Callable[[float], None]
    ) -> Client:
        """Make a client, and see that a broker can be reached. If none can, nothing is left behind."""
        client = self._make(kind, options, faults)
        try:
            knock(CONNECT_SECONDS)
            return client
        except BaseException:
            self._close(client.close)
            raise

    def _make(self, kind: Callable[..., Made], options: Mapping[str, Any], faults: Faults) -> Made:
        if "SSL" in str(options["security.protocol"]).upper():
            tls.of_librdkafka(options).context()  # raises what the library would not explain
        try:
            return kind({**options, "error_cb": faults}, logger=log)
        except (KafkaException, TypeError, ValueError) as error:
            raise self._refused(error) from None  # its text may show a password

    def _refused(self, error: Exception) -> ImproperlyConfigured:
        told = error.args[0] if error.args else None
        reason = error_text(told) if isinstance(told, KafkaError) else type(error).__name__
        values = [str(value) for given in self._given.values() for value in given.values()]
        if any(len(value) > 3 and value in reason for value in [*values, self._url.password or ""]):
            reason = "one of them has a value that it does not take"
        places = ", ".join(
            f'OUTBOX["BROKER"]["{key}"] ({name})' for key, given in self._given.items() for name in given
        )
        return ImproperlyConfigured(f"librdkafka refuses its options: {reason}. They are in {places or 'no setting'}.")

    @contextmanager
    def _admin(
        self, topics: Collection[str], seconds: float = CONNECT_SECONDS, *, with_rights: bool = False
    ) -> Iterator[tuple[AdminClient, Faults, _Described]]:
        """A client for questions of which a broker has answered the first: what these topics are like.

        Raises:
            BrokerUnavailable: with the reason, after so many seconds at most.
        """
        faults = self._faults()
        client = self._make(AdminClient, self._options(), faults)
        try:
            described = _describe(client, topics, seconds, with_rights=with_rights)
            waited = 0.0
            if len(self._url.hosts) > 1:
                # The library may wait for the one broker that is away; asked again, it chooses another.
                waited = seconds / 2
                if not has_answer(client, described.values(), faults, waited, self.interrupted):
                    described = _describe(client, topics, waited, with_rights=with_rights)
            await_broker(client, described.values(), faults, seconds - waited, self.interrupted, waited=waited)
            yield client, faults, described
        finally:
            self._close(partial(client.__exit__, None, None, None))

    def _close(self, close: Callable[[], object]) -> None:
        close_in_time(close, SLICE_SECONDS if self.interrupted() else CLOSE_SECONDS)


def _describe(admin: AdminClient, topics: Iterable[str], seconds: float, *, with_rights: bool = False) -> _Described:
    """Ask what topics are like, which creates none."""
    return admin.describe_topics(
        TopicCollection(list(topics)), request_timeout=seconds, include_authorized_operations=with_rights
    )


def _ours(place: KafkaTopicPartition) -> TopicPartition:
    return TopicPartition(place.topic, place.partition)


def _leaderless(description: Any) -> str:
    """Which partitions have no leader; empty if all have one."""
    return no_leader(partition.id for partition in description.partitions if not _has_leader(partition))


def _has_leader(partition: Any) -> bool:
    return partition.leader is not None and partition.leader.id >= 0
