"""Apache Kafka and compatible brokers through kafka-python."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from django.core.exceptions import ImproperlyConfigured
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka import errors as kafka_errors

from django_outbox.brokers.base import Producer, Subscription
from django_outbox.brokers.calls import CONNECT_SECONDS, DROP_UNSENT, SLICE_SECONDS, Call, Result
from django_outbox.brokers.cluster import Admin, ClusterBroker
from django_outbox.brokers.diagnosis import Access
from django_outbox.brokers.errors import refusal
from django_outbox.brokers.kafka.admin import KafkaAdmin
from django_outbox.brokers.kafka.client import METADATA_SECONDS, NetClient, connect, connection_options
from django_outbox.brokers.kafka.errors import client_error, is_of_listener
from django_outbox.brokers.kafka.options import checked, tls_files
from django_outbox.brokers.kafka.partitioner import KeyPartitioner
from django_outbox.brokers.kafka.producer import KafkaBrokerProducer, end_client
from django_outbox.brokers.kafka.subscription import KafkaSubscription
from django_outbox.brokers.limits import MAX_RECORD_BYTES
from django_outbox.exceptions import BrokerUnavailable

Client = TypeVar("Client")

_FILE_ERRORS = (FileNotFoundError, IsADirectoryError, PermissionError)  # of an ssl_ option
_OWN_OPTIONS: dict[type, str] = {KafkaProducer: "PRODUCER_OPTIONS", KafkaConsumer: "CONSUMER_OPTIONS"}


class KafkaBroker(ClusterBroker):
    """A Kafka cluster, reached with kafka-python."""

    library = "kafka-python"
    _check_options = staticmethod(checked)

    def producer(self, timeout: float) -> Producer:
        milliseconds = max(int(timeout * 1000), 10)
        options = {
            "max_block_ms": min(milliseconds, 500),  # then the producer checks whether to go on
            "delivery_timeout_ms": milliseconds,
            "request_timeout_ms": milliseconds * 3 // 4,
            # A partition's share of a batch goes out at once: 37 us a record instead of 60 with the client's 16 KiB.
            "batch_size": 131_072,
            "partitioner": KeyPartitioner(),
            "max_request_size": MAX_RECORD_BYTES,
            "metrics_enabled": False,
            "socket_options": KafkaProducer.DEFAULT_CONFIG["socket_options"],
            **self._options(KafkaProducer),
            "enable_idempotence": True,
        }
        options["socket_options"] = [*options["socket_options"], DROP_UNSENT]
        make_net = partial(NetClient, is_silent=self._silence.is_silent)

        def connect() -> KafkaProducer:
            now = options | self._servers()
            return self._reach(lambda: self._connect(KafkaProducer, now, make_net), undo=end_client)

        return KafkaBrokerProducer(connect, self._access(), self.topic_faults, self._silence)

    def subscribe(self, topics: Iterable[str], group: str) -> Subscription:
        options = {
            # Half of Kafka's default: a dead member's partitions move on sooner. A member that was only slow does no
            # harm, as its messages are not handled twice.
            "session_timeout_ms": 10000,
            # As in librdkafka: records of another service's aborted transaction never happened.
            "isolation_level": "read_committed",
            # How soon a member notices new leaders or partitions, or a topic that was deleted and created again.
            "metadata_max_age_ms": 2_000,
            "metrics_enabled": False,
            **self._options(KafkaConsumer),
            "group_id": group,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
        }
        topics = list(topics)
        # A broker answers behind a fetch that waits for records.
        waits = options.get("fetch_max_wait_ms", KafkaConsumer.DEFAULT_CONFIG["fetch_max_wait_ms"]) / 1000
        make_net = partial(NetClient, topics, metadata_seconds=waits + METADATA_SECONDS)

        def join() -> Subscription:
            client = self._connect(KafkaConsumer, options, make_net)
            look_up = partial(self._look_up, group)
            return KafkaSubscription(client, topics, self._access(), look_up)

        return self._reach(join, undo=Subscription.close)

    def _servers(self) -> dict[str, list[str]]:
        """The option that names the brokers to connect to first, if that are not those of the settings."""
        found = self._silence.answering
        return {"bootstrap_servers": found} if found else {}

    def _options(self, client: Any) -> dict[str, Any]:
        """The options for this client from URL and settings."""
        given = {name: self._given[key][name] for name, key in self._places(client).items()}
        if given.get("ssl_password", "") is None:
            del given["ssl_password"]
        return connection_options(self._url) | given

    def _places(self, client: Any) -> dict[str, str]:
        """Which options the project sets for a client, and under which key; the last key counts."""
        own = _OWN_OPTIONS.get(client)
        keys = ["URL", "OPTIONS", *([own] if own else [])]
        return {name: key for key in keys for name in self._given[key] if name in client.DEFAULT_CONFIG}

    def _connect(
        self, client: type[Client], options: Mapping[str, Any], make_net: Callable[..., NetClient] = NetClient
    ) -> Client:
        if "SSL" in options["security_protocol"]:
            tls_files(options).context()  # raises what the client would retry for ever
        try:
            return connect(client, options, make_net)
        except (kafka_errors.KafkaConfigurationError, RuntimeError, *_FILE_ERRORS) as error:
            raise self._refused(client, str(error)) from error
        except (kafka_errors.KafkaError, OSError):
            raise
        except Exception as error:  # its text may show a password
            raise self._refused(client, type(error).__name__) from error

    def _refused(self, client: type, reason: str) -> ImproperlyConfigured:
        return self._refused_options(reason, ((key, name) for name, key in self._places(client).items()))

    def _ask(
        self, question: Callable[[Admin], Result], seconds: float = CONNECT_SECONDS, in_all: float | None = None
    ) -> Result:
        options = {
            "request_timeout_ms": int(CONNECT_SECONDS * 1000),
            **self._options(KafkaAdminClient),
            **self._servers(),
        }
        tries = min(len(self._hosts), 2)  # one broker that hangs leaves time to ask another
        # A little less than there is, so that the reason arrives in time.
        options["bootstrap_timeout_ms"] = min(options["bootstrap_timeout_ms"], int(seconds * 900))
        options["request_timeout_ms"] = min(options["request_timeout_ms"], int(seconds * 900 / tries))

        def ask() -> Result:
            deadline = time.monotonic() + (in_all or seconds) * 0.9
            first: kafka_errors.KafkaError | None = None
            client = self._connect(KafkaAdminClient, options, partial(NetClient, is_silent=self._silence.is_silent))
            try:
                while True:
                    try:
                        return question(KafkaAdmin(client, seconds))
                    except kafka_errors.KafkaError as error:
                        # The client may have chosen the one broker that is away. Its first error says most.
                        first = first or error
                        if tries == 1 or not error.retriable or time.monotonic() >= deadline or self.interrupted():
                            raise (first if error.retriable else error) from None
                        time.sleep(SLICE_SECONDS)
            finally:
                with suppress(Exception):
                    client.close()

        return self._reach(ask, in_all or seconds)

    def _reach(
        self,
        call: Callable[[], Result],
        seconds: float = 3 * CONNECT_SECONDS,
        undo: Callable[[Result], object] | None = None,
    ) -> Result:
        """Wait for a call that reaches the broker, at most ``seconds`` and until an interruption."""
        try:
            return Call(call, undo).result(seconds, self.interrupted)
        except (kafka_errors.KafkaError, OSError, RuntimeError) as error:
            if (told := client_error(error)).is_refusal:
                raise BrokerUnavailable(refusal(self.location, told)) from error
            may_explain = is_of_listener(error)
            raise self._access().unavailable(told.text, seconds=seconds, may_explain=may_explain) from error

    def _access(self) -> Access:
        options = self._options(KafkaAdminClient)
        return Access(self._url, options["security_protocol"], tls_files(options), self._is_interrupted)
