"""Kafka's error codes: what is at fault, and what to do about it. Shared by the client libraries."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from django_outbox.brokers.base import Refused, TopicForbidden, TopicMissing, TopicTrouble

_URL = 'OUTBOX["BROKER"]["URL"]'


class Code(IntEnum):
    """Error codes with a meaning for the outbox. Source: the protocol guide of Apache Kafka."""

    CORRUPT_MESSAGE = 2
    UNKNOWN_TOPIC_OR_PARTITION = 3
    LEADER_NOT_AVAILABLE = 5
    NOT_LEADER_OR_FOLLOWER = 6
    REQUEST_TIMED_OUT = 7
    BROKER_NOT_AVAILABLE = 8
    REPLICA_NOT_AVAILABLE = 9
    MESSAGE_TOO_LARGE = 10
    NETWORK_EXCEPTION = 13
    COORDINATOR_LOAD_IN_PROGRESS = 14
    COORDINATOR_NOT_AVAILABLE = 15
    NOT_COORDINATOR = 16
    INVALID_TOPIC = 17
    RECORD_LIST_TOO_LARGE = 18
    NOT_ENOUGH_REPLICAS = 19
    NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20
    ILLEGAL_GENERATION = 22
    UNKNOWN_MEMBER_ID = 25
    REBALANCE_IN_PROGRESS = 27
    TOPIC_AUTHORIZATION_FAILED = 29
    GROUP_AUTHORIZATION_FAILED = 30
    CLUSTER_AUTHORIZATION_FAILED = 31
    INVALID_TIMESTAMP = 32
    UNSUPPORTED_SASL_MECHANISM = 33
    ILLEGAL_SASL_STATE = 34
    UNSUPPORTED_VERSION = 35
    TOPIC_ALREADY_EXISTS = 36
    UNSUPPORTED_FOR_MESSAGE_FORMAT = 43
    POLICY_VIOLATION = 44
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45
    INVALID_PRODUCER_EPOCH = 47
    INVALID_PRODUCER_ID_MAPPING = 49
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53
    SECURITY_DISABLED = 54
    KAFKA_STORAGE_ERROR = 56
    SASL_AUTHENTICATION_FAILED = 58
    UNKNOWN_PRODUCER_ID = 59
    DELEGATION_TOKEN_AUTH_DISABLED = 61
    DELEGATION_TOKEN_AUTHORIZATION_FAILED = 65
    DELEGATION_TOKEN_EXPIRED = 66
    LISTENER_NOT_FOUND = 72
    FENCED_LEADER_EPOCH = 74
    UNKNOWN_LEADER_EPOCH = 75
    UNSUPPORTED_COMPRESSION_TYPE = 76
    INVALID_RECORD = 87
    THROTTLING_QUOTA_EXCEEDED = 89
    PRODUCER_FENCED = 90
    UNKNOWN_TOPIC_ID = 100
    INCONSISTENT_TOPIC_ID = 103


REFUSED_FOR_GOOD = frozenset(
    {Code.MESSAGE_TOO_LARGE, Code.RECORD_LIST_TOO_LARGE, Code.INVALID_TOPIC, Code.INVALID_RECORD}
)
# The broker rejects a whole batch of the client and may not say which record is at fault.
OF_A_WHOLE_BATCH = frozenset(
    {
        Code.CORRUPT_MESSAGE,
        Code.INVALID_RECORD,
        Code.INVALID_TIMESTAMP,
        Code.MESSAGE_TOO_LARGE,
        Code.RECORD_LIST_TOO_LARGE,
    }
)
TOPIC_AT_FAULT = frozenset(
    {
        Code.LEADER_NOT_AVAILABLE,
        Code.NOT_ENOUGH_REPLICAS,
        Code.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        Code.POLICY_VIOLATION,
        Code.UNKNOWN_TOPIC_ID,
    }
)
CLIENT_AT_FAULT = frozenset(
    {
        Code.CLUSTER_AUTHORIZATION_FAILED,
        Code.DELEGATION_TOKEN_AUTHORIZATION_FAILED,
        Code.DELEGATION_TOKEN_AUTH_DISABLED,
        Code.DELEGATION_TOKEN_EXPIRED,
        Code.GROUP_AUTHORIZATION_FAILED,
        Code.ILLEGAL_SASL_STATE,
        Code.SASL_AUTHENTICATION_FAILED,
        Code.SECURITY_DISABLED,
        Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        Code.UNSUPPORTED_COMPRESSION_TYPE,
        Code.UNSUPPORTED_FOR_MESSAGE_FORMAT,
        Code.UNSUPPORTED_SASL_MECHANISM,
        Code.UNSUPPORTED_VERSION,
    }
)
# Also a refusal where it is not about writing records.
REFUSALS = CLIENT_AT_FAULT | {Code.TOPIC_AUTHORIZATION_FAILED}
# No topic can be blamed for these. A new producer may succeed.
PRODUCER_IS_BROKEN = CLIENT_AT_FAULT | {
    Code.INVALID_PRODUCER_EPOCH,
    Code.INVALID_PRODUCER_ID_MAPPING,
    Code.OUT_OF_ORDER_SEQUENCE_NUMBER,
    Code.PRODUCER_FENCED,
    Code.UNKNOWN_PRODUCER_ID,
}
# During a rebalance, the next owner of the partition reads these records again and skips them.
REBALANCING = frozenset({Code.ILLEGAL_GENERATION, Code.REBALANCE_IN_PROGRESS, Code.UNKNOWN_MEMBER_ID})
# Another broker takes over the group, or the coordinator waits for a replica that hangs.
COORDINATOR_IS_MOVING = frozenset(
    {
        Code.COORDINATOR_LOAD_IN_PROGRESS,
        Code.COORDINATOR_NOT_AVAILABLE,
        Code.NETWORK_EXCEPTION,
        Code.NOT_COORDINATOR,
        Code.REQUEST_TIMED_OUT,
    }
)
# They may pass, and no record is at fault.
_PASSING = COORDINATOR_IS_MOVING | {
    Code.BROKER_NOT_AVAILABLE,
    Code.FENCED_LEADER_EPOCH,
    Code.INCONSISTENT_TOPIC_ID,
    Code.KAFKA_STORAGE_ERROR,
    Code.LISTENER_NOT_FOUND,
    Code.NOT_LEADER_OR_FOLLOWER,
    Code.REPLICA_NOT_AVAILABLE,
    Code.THROTTLING_QUOTA_EXCEEDED,
    Code.UNKNOWN_LEADER_EPOCH,
}

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
    """An error of a client library, in Kafka's terms.

    Attributes:
        code: a ``Code`` or another error code of the protocol; None for an error that only the library knows.
        text: what the library says, without secrets.
        fatal: the client that reports it cannot be used any more.
        late: there was no answer in time.
        of_record: only the library knows the error, and it blames the record.
    """

    code: int | None
    text: str
    fatal: bool = False
    late: bool = False
    of_record: bool = False

    @property
    def ends_producer(self) -> bool:
        """True if no topic can be blamed; a new producer may succeed."""
        return self.fatal or self.code in PRODUCER_IS_BROKEN

    @property
    def fails_record(self) -> bool:
        """True if the record itself failed, for a reason that may pass."""
        # The code -1 says only that something went wrong in the broker.
        return self.of_record or (self.code is not None and self.code > 0 and self.code not in _PASSING)


def topic_outcome(error: ClientError) -> Refused | TopicTrouble | None:
    """The outcome of records whose topic has this error; None if neither topic nor record is to blame."""
    if error.code in REFUSED_FOR_GOOD:
        return Refused(error.text)
    if error.code == Code.UNKNOWN_TOPIC_OR_PARTITION:
        return TopicMissing()
    if error.code == Code.TOPIC_AUTHORIZATION_FAILED:
        return TopicForbidden(error.text)
    return TopicTrouble(error.text) if error.code in TOPIC_AT_FAULT else None


def refusal(location: str, error: ClientError) -> str:
    """The message for a client that the broker refuses: why, and what to do about it."""
    advice = _ADVICE.get(error.code or 0)
    return f"{location} refuses this client: {error.text.rstrip('.')}." + (f" {advice}." if advice else "")
