"""Apache Kafka and compatible brokers through confluent-kafka: the fastest way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaException
from confluent_kafka import Producer as KafkaProducer
from confluent_kafka.admin import AdminClient
from django.core.exceptions import ImproperlyConfigured

from django_outbox.brokers.base import Producer, Subscription
from django_outbox.brokers.calls import CLOSE_SECONDS, CONNECT_SECONDS, SLICE_SECONDS, Result, close_in_time
from django_outbox.brokers.cluster import ClusterBroker
from django_outbox.brokers.confluent.admin import ConfluentAdmin
from django_outbox.brokers.confluent.client import SEND_BUFFER_BYTES, Faults, connection_options, log
from django_outbox.brokers.confluent.commits import CommitReports
from django_outbox.brokers.confluent.errors import error_text, told_by
from django_outbox.brokers.confluent.options import checked, tls_files
from django_outbox.brokers.confluent.producer import ConfluentBrokerProducer
from django_outbox.brokers.confluent.subscription import ConfluentSubscription
from django_outbox.brokers.diagnosis import WORTH_EXPLAINING_SECONDS, Access
from django_outbox.brokers.limits import MAX_RECORD_BYTES
from django_outbox.brokers.producer import TopicFaults
from django_outbox.brokers.tansu import is_tansu
from django_outbox.exceptions import NoAnswer

Client = TypeVar("Client", KafkaProducer, Consumer)
Made = TypeVar("Made")

_ANY_TOPIC = "__consumer_offsets"  # Kafka's own; that it is hidden or missing is an answer, too
_PARTITIONER = "murmur2_random"
_LONGEST_TIMEOUT_MS = 300_000  # the library's limit for a request


class ConfluentBroker(ClusterBroker):
    """A Kafka cluster, reached with confluent-kafka.

    Members of one group may use this backend or kafka-python's side by side: both know the strategies ``range`` and
    ``roundrobin``. Where all members use this one, ``CONSUMER_OPTIONS`` may choose ``cooperative-sticky``. With that,
    a member of kafka-python (3.0) that was away for too long claims partitions that others have got since.
    """

    library = "librdkafka"
    _check_options = staticmethod(checked)

    def producer(self, timeout: float) -> Producer:
        milliseconds = max(int(timeout * 1000), 10)
        options = {
            "message.timeout.ms": milliseconds,
            "socket.timeout.ms": min(max(milliseconds * 3 // 4, 10), _LONGEST_TIMEOUT_MS),
            # As in kafka-python and Java, so that all clients send a key to the same partition.
            "partitioner": _PARTITIONER,
            "message.max.bytes": MAX_RECORD_BYTES,
            # Topics are looked up before they are used. A topic that is unknown after that was deleted.
            "topic.metadata.propagation.max.ms": min(milliseconds // 2, 5000),
            **self._options("PRODUCER_OPTIONS"),
            "acks": "all",
            "allow.auto.create.topics": False,
            "enable.idempotence": True,
            **self._servers(),
            "socket.send.buffer.bytes": SEND_BUFFER_BYTES,
        }
        own_partitioner = options["partitioner"] != _PARTITIONER
        if own_partitioner:  # this process cannot know which record is the first of its partition
            options.pop("max.in.flight", None)
            options["max.in.flight.requests.per.connection"] = 1
        faults = Faults(self._access())
        client = self._connect(KafkaProducer, options, faults, self._knock)
        return ConfluentBrokerProducer(
            client, faults, self.topic_faults, self._silence, own_partitioner=own_partitioner
        )

    def subscribe(self, topics: Iterable[str], group: str) -> Subscription:
        options = {
            # Half of Kafka's default: a dead member's partitions move on sooner. A member that was only slow does no
            # harm, as its messages are not handled twice.
            "session.timeout.ms": 10000,
            "partition.assignment.strategy": "range,roundrobin",
            # How soon a member notices new leaders or partitions, or a topic that was deleted and created again.
            "topic.metadata.refresh.interval.ms": 2_000,
            # As in kafka-python and Java: data that disk or network corrupted must not reach a handler.
            "check.crcs": True,
            **self._options("CONSUMER_OPTIONS"),
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "allow.auto.create.topics": False,
            "enable.partition.eof": True,
            "on_commit": (reports := CommitReports()),
        }
        topics = list(dict.fromkeys(topics))
        faults = Faults(self._access())
        knock = partial(self._knock, topics=topics)
        client = self._connect(Consumer, options, faults, knock)
        can_leave = partial(self._ask, lambda admin: admin.is_stable(group)) if _is_on_tansu(client) else lambda: True
        look_up = partial(self._look_up, group)
        return ConfluentSubscription(client, faults, topics, look_up, knock, can_leave, reports)

    def _servers(self) -> dict[str, str]:
        """The option that names the brokers to connect to first, if that are not those of the settings."""
        found = self._silence.answering
        return {"bootstrap.servers": ",".join(found)} if found else {}

    def _options(self, key: str | None = None) -> dict[str, Any]:
        """The options for a client from URL and settings."""
        options = connection_options(self._url)
        for place in ("URL", "OPTIONS", *([key] if key else [])):
            options |= self._given[place]
        return options

    def topic_faults(self, topics: Collection[str], seconds: float = CONNECT_SECONDS) -> TopicFaults:
        # If there is time, some is left for finding out why no broker answers.
        return super().topic_faults(topics, seconds * (0.5 if seconds >= WORTH_EXPLAINING_SECONDS else 0.9))

    def _knock(self, seconds: float, topics: Collection[str] = (_ANY_TOPIC,)) -> None:
        """Raise ``BrokerUnavailable`` if no broker answers within ``seconds``."""
        try:
            self._ask_of(self._hosts, lambda admin: admin.describe_topics(topics), seconds)
        except NoAnswer as error:
            if not error.answering:  # or only the broker that the library asked is away
                raise

    def _ask(
        self,
        question: Callable[[ConfluentAdmin], Result],
        seconds: float = CONNECT_SECONDS,
        in_all: float | None = None,
    ) -> Result:
        try:
            return self._ask_of(self._hosts, question, seconds)
        except NoAnswer as error:
            if not error.answering:
                raise
            # The library stays with a broker that hangs. It turns to others only if it knows no other than those.
            return self._ask_of(error.answering, question, min(seconds, CONNECT_SECONDS))

    def _ask_of(self, hosts: Collection[str], question: Callable[[ConfluentAdmin], Result], seconds: float) -> Result:
        """Ask one of these brokers."""
        faults = Faults(self._access())
        options = {
            **self._options(),
            "bootstrap.servers": ",".join(hosts),
            "allow.auto.create.topics": False,  # asking about a topic would create it
        }
        client = self._make(AdminClient, options, faults)
        tries = min(len(hosts), 2)
        try:
            is_some_silent = bool(self._silence.answering)
            return question(ConfluentAdmin(client, faults, seconds, tries, asks_any=is_some_silent))
        finally:
            self._close(partial(client.__exit__, None, None, None))

    def _connect(
        self, kind: Callable[..., Client], options: Mapping[str, Any], faults: Faults, knock: Callable[[float], None]
    ) -> Client:
        """Make a client and see that a broker answers. If none does, nothing is left behind."""
        client = self._make(kind, options, faults)
        try:
            knock(CONNECT_SECONDS)
            return client
        except BaseException:
            self._close(client.close)
            raise

    def _make(self, kind: Callable[..., Made], options: Mapping[str, Any], faults: Faults) -> Made:
        if "SSL" in str(options["security.protocol"]).upper():
            tls_files(options).context()  # raises what the library would not explain
        try:
            return kind({**options, "error_cb": faults}, logger=log)
        except (KafkaException, TypeError, ValueError) as error:
            raise self._refused(error) from None  # its text may show a password

    def _refused(self, error: Exception) -> ImproperlyConfigured:
        told = told_by(error)
        reason = error_text(told) if told is not None else type(error).__name__
        values = [str(value) for given in self._given.values() for value in given.values()]
        if any(len(value) > 3 and value in reason for value in [*values, self._url.password or ""]):
            reason = "one of them has a value that it does not take"
        return self._refused_options(reason, ((key, name) for key, given in self._given.items() for name in given))

    def _close(self, close: Callable[[], object]) -> None:
        close_in_time(close, SLICE_SECONDS if self.interrupted() else CLOSE_SECONDS)

    def _access(self) -> Access:
        options = self._options()
        protocol = str(options["security.protocol"]).upper()
        return Access(self._url, protocol, tls_files(options), self._is_interrupted)


def _is_on_tansu(client: Consumer) -> bool:
    try:
        return is_tansu(client.list_topics(_ANY_TOPIC, CLOSE_SECONDS).cluster_id)
    except KafkaException:
        return False
