"""What librdkafka's clients need to be told and what their errors mean.

Facts about the library (version 2.16) that shape these modules: a client that cannot reach its
brokers says so to a callback only, and goes on for ever; callbacks and log lines come out of the
calls that poll, in the thread of the caller; what a producer holds is dropped by a purge, but not
what the kernel holds for its sockets; a batch that the broker refuses for one of its records fails
as a whole; and a topic that does not exist is told from an outage only after a while, so topics are
looked up before they are used.

A broker that is about to stop answers that it knows of no broker. The question ``DescribeCluster``
makes the library end the process then (an assertion fails), so topics are asked for instead; and a
consumer may lose all its brokers by that, for ever (librdkafka issue 5301), so after a silence it
is asked whether it still has one.
"""

from __future__ import annotations

import logging
import re
import socket
import struct
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

from django_outbox.brokers.base import Refused, TopicForbidden, TopicMissing, TopicTrouble
from django_outbox.brokers.calls import SLICE_SECONDS
from django_outbox.brokers.confluent.library import AdminClient, KafkaError, KafkaException
from django_outbox.brokers.diagnosis import WORTH_IT_FROM_SECONDS, unreachable
from django_outbox.brokers.refusals import (
    ILLEGAL_SASL_STATE,
    SASL_AUTHENTICATION_FAILED,
    UNSUPPORTED_SASL_MECHANISM,
    refusal,
)
from django_outbox.brokers.secrets import masked
from django_outbox.brokers.url import BrokerURL
from django_outbox.exceptions import BrokerUnavailable, NoAnswer

log = logging.getLogger("confluent_kafka")

CONNECT_SECONDS = 5.0

# A name may have several addresses, of which the first refuses while the second is tried: so long
# all brokers have to be away until that is believed.
DOWN_SECONDS = 1.5

REFUSED_FOR_GOOD = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.INVALID_RECORD,
    }
)
TOPIC_IS_MISSING = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
)
TOPIC_AT_FAULT = TOPIC_IS_MISSING | {
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_ENOUGH_REPLICAS,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    KafkaError.POLICY_VIOLATION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.UNKNOWN_TOPIC_ID,
}
CLIENT_AT_FAULT = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError._UNSUPPORTED_FEATURE,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.DELEGATION_TOKEN_AUTHORIZATION_FAILED,
        KafkaError.DELEGATION_TOKEN_AUTH_DISABLED,
        KafkaError.DELEGATION_TOKEN_EXPIRED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.ILLEGAL_SASL_STATE,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.SECURITY_DISABLED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.UNSUPPORTED_VERSION,
    }
)
# No topic can be blamed for these; another producer may do better.
PRODUCER_IS_BROKEN = CLIENT_AT_FAULT | {
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.INVALID_PRODUCER_ID_MAPPING,
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
    KafkaError.PRODUCER_FENCED,
    KafkaError.UNKNOWN_PRODUCER_ID,
}
# The broker is asked whether it is there at all after one of these, and after any error of the library itself.
NO_ANSWER = frozenset(
    {
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.THROTTLING_QUOTA_EXCEEDED,
    }
)

_OF_THE_WAY_IN = frozenset({KafkaError._SSL, KafkaError._TRANSPORT})
_LOGIN_ERRORS = {
    "Unsupported SASL mechanism": UNSUPPORTED_SASL_MECHANISM,
    "not valid in current SASL state": ILLEGAL_SASL_STATE,
}

# A size that no other socket of the process has by chance: it tells those of producers.
SEND_BUFFER_BYTES = 200_003

# Makes the kernel drop what it has not sent yet when the socket is closed, or the process dies.
_DROP_UNSENT = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

_WHERE = re.compile(r"^\w+://\S+/bootstrap: ")
_HOW_LONG = re.compile(r" \(after \d+ms in state (?:\(s\)|[^)])*\)")


class Faults:
    """What a client has told of its trouble; its ``error_cb``."""

    def __init__(
        self,
        location: str,
        hosts: Sequence[str] = (),
        *,
        has_login: bool = False,
        diagnose: Callable[[], str | None] = lambda: None,
        answering: Callable[[], Collection[str]] = lambda: (),
    ) -> None:
        """
        Args:
            location: of the broker, for people.
            hosts: the servers that the URL names.
            has_login: whether user and password may be what is wrong.
            diagnose: says what is wrong with the way in to a broker that listens, if that can be seen.
            answering: says which of the servers answer now.
        """
        self.location = location
        self.refusal: KafkaError | None = None
        self._hosts = hosts or (location,)
        self._has_login = has_login
        self._diagnose = diagnose
        self._answering = answering
        self._last: KafkaError | None = None
        self._down_since: float | None = None

    def __call__(self, error: KafkaError) -> None:
        if error.fatal() or error.code() in CLIENT_AT_FAULT:
            self.refusal = self.refusal or error
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._down_since = self._down_since or time.monotonic()
        else:
            self._last = error

    @property
    def is_down(self) -> bool:
        """True if all brokers went away some time ago and nothing was heard of them since."""
        return self._down_since is not None and time.monotonic() - self._down_since >= DOWN_SECONDS

    @property
    def reason(self) -> str | None:
        """What the client complained of most, if it did."""
        error = self.refusal or self._last
        return None if error is None else error_text(error)

    def heard(self) -> None:
        """Note that a broker is there, and takes this client."""
        self._down_since = self._last = None
        if self.refusal is not None and not self.refusal.fatal():
            self.refusal = None  # it was that of another broker, or is withdrawn

    def unreachable(self, error: KafkaError | None = None, *, seconds: float = CONNECT_SECONDS) -> BrokerUnavailable:
        """What to raise when there was no answer for so long, or none but this error."""
        refused = self.refusal or (error if error is not None and error.code() in CLIENT_AT_FAULT else None)
        if refused is not None:
            return BrokerUnavailable(refusal(self.location, error_text(refused), protocol_code(refused)))
        if seconds >= WORTH_IT_FROM_SECONDS and (finding := self._diagnosis(error)):
            return BrokerUnavailable(f"{self.location} {finding}.")
        nothing = "it ends each connection" if self.is_down else f"no answer within {seconds:g} s"
        reason = self.reason or (error_text(error) if error is not None else nothing)
        answer = self._answering() if seconds >= WORTH_IT_FROM_SECONDS else ()
        text = unreachable(self.location, self._hosts, answer, reason, has_login=self._has_login)
        return NoAnswer(text, answer)

    def _diagnosis(self, error: KafkaError | None) -> str | None:
        """What is wrong with the way in, if the library has told of errors that this may explain."""
        told = error if error is not None and error.code() == KafkaError._SSL else self._last
        may_explain = self.is_down or (told is not None and told.code() in _OF_THE_WAY_IN)
        return self._diagnose() if may_explain else None


def protocol_code(error: KafkaError) -> int:
    """The error's number in Kafka's protocol; the library has one of its own for a login that failed."""
    code: int = error.code()
    if code != KafkaError._AUTHENTICATION:
        return code
    return next((number for text, number in _LOGIN_ERRORS.items() if text in error.str()), SASL_AUTHENTICATION_FAILED)


def connection_options(url: BrokerURL) -> dict[str, Any]:
    """What all clients are told of the way to the cluster."""
    options: dict[str, Any] = {
        "bootstrap.servers": ",".join(url.hosts),
        "security.protocol": url.protocol,
        # Found again quickly after an outage, at the price of a try a second.
        "reconnect.backoff.max.ms": 1000,
        "socket.connection.setup.timeout.ms": int(CONNECT_SECONDS * 1000),
    }
    if url.password is not None:
        options |= {"sasl.mechanism": "PLAIN", "sasl.username": url.username, "sasl.password": url.password}
    return options


def has_answer(
    admin: AdminClient,
    answers: Collection[Future[Any]],
    faults: Faults,
    seconds: float,
    interrupted: Callable[[], bool],
) -> bool:
    """Whether a broker has answered within so many seconds, whatever it says of single topics."""
    deadline = time.monotonic() + seconds
    while wait(answers, min(SLICE_SECONDS, seconds)).not_done:
        admin.poll(0)  # lets the client tell its trouble
        if faults.refusal or faults.is_down or interrupted() or time.monotonic() >= deadline:
            return False
    return all(_is_answer(answer.exception()) for answer in answers)


def await_broker(
    admin: AdminClient,
    answers: Collection[Future[Any]],
    faults: Faults,
    seconds: float,
    interrupted: Callable[[], bool],
    *,
    waited: float = 0.0,
) -> None:
    """Wait until a broker has answered what this client asked first, whatever it says of single topics.

    Args:
        waited: seconds that this has taken already.

    Raises:
        BrokerUnavailable: none did; after as many seconds at most, or once that is certain.
    """
    deadline, in_all = time.monotonic() + seconds, waited + seconds
    while wait(answers, min(SLICE_SECONDS, seconds)).not_done:
        admin.poll(0)  # lets the client tell its trouble
        if faults.refusal or faults.is_down or interrupted() or time.monotonic() >= deadline:
            raise faults.unreachable(seconds=in_all)
    for answer in answers:
        error = answer.exception()
        if not _is_answer(error):
            told: KafkaError | None = error.args[0] if isinstance(error, KafkaException) else None
            only_late = told is None or told.code() == KafkaError._TIMED_OUT
            raise faults.unreachable(None if only_late else told, seconds=in_all) from error
    faults.heard()


def _is_answer(error: BaseException | None) -> bool:
    return error is None or (isinstance(error, KafkaException) and not is_of_client(error.args[0]))


def await_answers(answers: Collection[Future[Any]], faults: Faults, interrupted: Callable[[], bool]) -> None:
    """Wait for answers, which come in time, be it that there is none.

    Raises:
        BrokerUnavailable: the wait was interrupted.
    """
    while wait(answers, SLICE_SECONDS).not_done:
        if interrupted():
            raise faults.unreachable()


def topic_outcome(error: KafkaError) -> Refused | TopicTrouble | None:
    """What an error of a topic means for its records; None if it is no such error."""
    code = error.code()
    if code in REFUSED_FOR_GOOD:
        return Refused(error_text(error))
    if code in TOPIC_IS_MISSING:
        return TopicMissing()
    if code == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        return TopicForbidden(error_text(error))
    return TopicTrouble(error_text(error)) if code in TOPIC_AT_FAULT else None


def is_of_client(error: KafkaError) -> bool:
    """True if an error says nothing of what was asked for: there was no answer, or one that concerns the client."""
    return error.code() < 0 or error.code() in CLIENT_AT_FAULT


def error_text(error: KafkaError) -> str:
    """What an error says: without secrets, without where the URL points, and without a clock's times."""
    return masked(_WHERE.sub("", _HOW_LONG.sub("", error.str())).rstrip(".")) or error.name()


def drop_unsent() -> None:
    """Have the kernel drop what it holds for the producers' sockets once they are closed.

    The library gives its sockets to nobody, so they are told by the size of their send buffer. On
    Windows nothing is done: there what the kernel holds is sent when the network heals.
    """
    with socket.socket() as example:
        example.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        size = example.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)  # as this system counts
    with suppress(FileNotFoundError):
        for file in Path("/dev/fd").iterdir():
            with suppress(OSError):  # not a socket, or closed meanwhile
                end = socket.socket(fileno=int(file.name))
                try:
                    if end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == size:
                        end.setsockopt(*_DROP_UNSENT)
                finally:
                    end.detach()
