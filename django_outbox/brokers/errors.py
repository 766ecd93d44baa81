"""Kafka's error codes: what is at fault, and what to do about it. Shared by the client libraries."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag, IntEnum, auto
from typing import Self

from django_outbox.brokers.base import Refused, TopicForbidden, TopicMissing, TopicPartition, TopicTrouble
from django_outbox.exceptions import RecordsUndecodable

_URL = 'OUTBOX["BROKER"]["URL"]'

HEADERS_ARE_NO_TEXT = "the name of one of its headers is not UTF-8 text"
NOT_READABLE = "this client may not read it"
NOT_EVEN_SEEN = "this client may not even see whether it exists"
NO_SUCH_NAME = "its name is not valid"


class Blame(Flag):
    """What is at fault for an error."""

    UNKNOWN = 0
    RECORD = auto()  # refused for good
    BATCH = auto()  # of the client; the broker may not say which of its records is at fault
    TOPIC = auto()
    CLIENT = auto()  # the broker refuses it
    PRODUCER = auto()  # a new one may succeed; no topic can be blamed
    REBALANCE = auto()  # the next owner of the partition reads the records again and skips them
    COORDINATOR = auto()  # another broker takes over the group, or the coordinator waits for a replica that hangs
    BROKER = auto()  # the error may pass, and no record is at fault


class Code(IntEnum):
    """Error codes with a meaning for the outbox. Source: the protocol guide of Apache Kafka."""

    blame: Blame

    def __new__(cls, number: int, blame: Blame = Blame.UNKNOWN) -> Self:
        code = int.__new__(cls, number)
        code._value_ = number
        code.blame = blame
        return code

    CORRUPT_MESSAGE = 2, Blame.BATCH
    UNKNOWN_TOPIC_OR_PARTITION = 3
    LEADER_NOT_AVAILABLE = 5, Blame.TOPIC
    NOT_LEADER_OR_FOLLOWER = 6, Blame.BROKER
    REQUEST_TIMED_OUT = 7, Blame.COORDINATOR
    BROKER_NOT_AVAILABLE = 8, Blame.BROKER
    REPLICA_NOT_AVAILABLE = 9, Blame.BROKER
    MESSAGE_TOO_LARGE = 10, Blame.RECORD | Blame.BATCH
    NETWORK_EXCEPTION = 13, Blame.COORDINATOR
    COORDINATOR_LOAD_IN_PROGRESS = 14, Blame.COORDINATOR
    COORDINATOR_NOT_AVAILABLE = 15, Blame.COORDINATOR
    NOT_COORDINATOR = 16, Blame.COORDINATOR
    INVALID_TOPIC = 17, Blame.RECORD
    RECORD_LIST_TOO_LARGE = 18, Blame.RECORD | Blame.BATCH
    NOT_ENOUGH_REPLICAS = 19, Blame.TOPIC
    NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20, Blame.TOPIC
    ILLEGAL_GENERATION = 22, Blame.REBALANCE
    UNKNOWN_MEMBER_ID = 25, Blame.REBALANCE
    REBALANCE_IN_PROGRESS = 27, Blame.REBALANCE
    TOPIC_AUTHORIZATION_FAILED = 29
    GROUP_AUTHORIZATION_FAILED = 30, Blame.CLIENT
    CLUSTER_AUTHORIZATION_FAILED = 31, Blame.CLIENT
    INVALID_TIMESTAMP = 32, Blame.BATCH
    UNSUPPORTED_SASL_MECHANISM = 33, Blame.CLIENT
    ILLEGAL_SASL_STATE = 34, Blame.CLIENT
    UNSUPPORTED_VERSION = 35, Blame.CLIENT
    TOPIC_ALREADY_EXISTS = 36
    UNSUPPORTED_FOR_MESSAGE_FORMAT = 43, Blame.CLIENT
    POLICY_VIOLATION = 44, Blame.TOPIC
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45, Blame.PRODUCER
    INVALID_PRODUCER_EPOCH = 47, Blame.PRODUCER
    INVALID_PRODUCER_ID_MAPPING = 49, Blame.PRODUCER
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53, Blame.CLIENT
    SECURITY_DISABLED = 54, Blame.CLIENT
    KAFKA_STORAGE_ERROR = 56, Blame.BROKER
    SASL_AUTHENTICATION_FAILED = 58, Blame.CLIENT
    UNKNOWN_PRODUCER_ID = 59, Blame.PRODUCER
    DELEGATION_TOKEN_AUTH_DISABLED = 61, Blame.CLIENT
    DELEGATION_TOKEN_AUTHORIZATION_FAILED = 65, Blame.CLIENT
    DELEGATION_TOKEN_EXPIRED = 66, Blame.CLIENT
    LISTENER_NOT_FOUND = 72, Blame.BROKER
    FENCED_LEADER_EPOCH = 74, Blame.BROKER
    UNKNOWN_LEADER_EPOCH = 75, Blame.BROKER
    UNSUPPORTED_COMPRESSION_TYPE = 76, Blame.CLIENT
    INVALID_RECORD = 87, Blame.RECORD | Blame.BATCH
    THROTTLING_QUOTA_EXCEEDED = 89, Blame.BROKER
    PRODUCER_FENCED = 90, Blame.PRODUCER
    UNKNOWN_TOPIC_ID = 100, Blame.TOPIC
    INCONSISTENT_TOPIC_ID = 103, Blame.BROKER


_CODES = frozenset(Code)
_ADVICE: dict[int, str] = {
    Code.TOPIC_AUTHORIZATION_FAILED: "Allow it to read the topic, by an ACL for the operation Read",
    Code.GROUP_AUTHORIZATION_FAILED: "Allow it to use its consumer group, by an ACL for the operation Read on the group",
    Code.CLUSTER_AUTHORIZATION_FAILED: "Allow it to write to its topics, by an ACL for the operation Write",
    Code.UNSUPPORTED_SASL_MECHANISM: (
        f"Name a mechanism that the broker supports in {_URL}, as in ?sasl_mechanism=SCRAM-SHA-512"
    ),
    Code.ILLEGAL_SASL_STATE: (
        f"This port does not accept logins: use kafka:// or kafka+ssl:// in {_URL}, or the port for logins"
    ),
    Code.SASL_AUTHENTICATION_FAILED: (
        f"Correct user and password in {_URL}, or name their mechanism, as in "
        "?sasl_mechanism=SCRAM-SHA-512 (default: PLAIN)"
    ),
}


@dataclass(frozen=True, slots=True)
class ClientError:
    """An error of a client library, in Kafka's terms."""

    code: int | None  # a Code or another error code of the protocol; None for an error that only the library knows
    text: str  # what the library says, without secrets
    fatal: bool = False  # the client that reports it cannot be used any more
    late: bool = False  # there was no answer in time
    of_record: bool = False  # only the library knows the error, and it blames the record

    @property
    def blame(self) -> Blame:
        return Code(self.code).blame if self.code in _CODES else Blame.UNKNOWN

    @property
    def is_refusal(self) -> bool:
        """True if the broker refuses this client what it asks for, other than writing records."""
        return Blame.CLIENT in self.blame or self.code == Code.TOPIC_AUTHORIZATION_FAILED

    @property
    def ends_producer(self) -> bool:
        """True if no topic can be blamed; a new producer may succeed."""
        return self.fatal or bool(self.blame & (Blame.PRODUCER | Blame.CLIENT))

    @property
    def fails_record(self) -> bool:
        """True if the record itself failed, for a reason that may pass."""
        # The code -1 says only that something went wrong in the broker.
        may_pass = self.code is None or self.code <= 0 or bool(self.blame & (Blame.COORDINATOR | Blame.BROKER))
        return self.of_record or not may_pass


def topic_result(error: ClientError) -> Refused | TopicTrouble | None:
    """The result of records whose topic has this error; None if neither topic nor record is to blame."""
    if Blame.RECORD in error.blame:
        return Refused(error.text)
    if error.code == Code.UNKNOWN_TOPIC_OR_PARTITION:
        return TopicMissing()
    if error.code == Code.TOPIC_AUTHORIZATION_FAILED:
        return TopicForbidden(error.text)
    return TopicTrouble(error.text) if Blame.TOPIC in error.blame else None


def refusal(location: str, error: ClientError) -> str:
    """The message for a client that the broker refuses: why, and what to do about it."""
    advice = _ADVICE.get(error.code or 0)
    return f"{location} refuses this client: {error.text.rstrip('.')}." + (f" {advice}." if advice else "")


def broken(place: TopicPartition, offset: int, reason: str) -> RecordsUndecodable:
    """The error for records from this offset on that no library could read; ``reason`` is what this one says."""
    return RecordsUndecodable(
        {place.topic},
        f"its partition {place.partition} cannot be read on from offset {offset} ({reason.rstrip('.')})",
        "Check the broker's log, or move the group's offset past the broken records with kafka-consumer-groups.sh",
    )


def compressed(place: TopicPartition, codec: str, package: str) -> RecordsUndecodable:
    """The error for records whose compression needs another package."""
    return RecordsUndecodable(
        {place.topic},
        f"its partition {place.partition} has records that are compressed with {codec}, which cannot be read here",
        f"Install the package {package} and restart the consumer",
    )
