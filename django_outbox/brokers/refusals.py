"""What to do when a broker answers, and refuses this client: by the numbers of Kafka's protocol, so for every library."""

from __future__ import annotations

from collections.abc import Collection, Iterable

_URL = 'OUTBOX["BROKER"]["URL"]'

NOT_READABLE = "this client may not read it"
NOT_EVEN_SEEN = "this client may not even see whether it exists"
NO_SUCH_NAME = "there can be no topic of this name"

# Source: the error codes in Kafka's protocol guide.
UNKNOWN_SERVER_ERROR = -1
TOPIC_AUTHORIZATION_FAILED = 29
GROUP_AUTHORIZATION_FAILED = 30
CLUSTER_AUTHORIZATION_FAILED = 31
UNSUPPORTED_SASL_MECHANISM = 33
ILLEGAL_SASL_STATE = 34
SASL_AUTHENTICATION_FAILED = 58

_ADVICE = {
    TOPIC_AUTHORIZATION_FAILED: "Let it read the topic, by an ACL for the operation Read",
    GROUP_AUTHORIZATION_FAILED: "Let it use its consumer group, by an ACL for the operation Read on the group",
    CLUSTER_AUTHORIZATION_FAILED: "Let it write to its topics, by an ACL for the operation Write",
    UNSUPPORTED_SASL_MECHANISM: f"Name a mechanism that the broker takes in {_URL}, as in ?sasl_mechanism=SCRAM-SHA-512",
    ILLEGAL_SASL_STATE: (
        f"It takes no login at this port: begin {_URL} with kafka:// or kafka+ssl://, or name its port for logins"
    ),
    SASL_AUTHENTICATION_FAILED: (
        f"Correct user and password in {_URL}, or name the mechanism that they are for, as in "
        "?sasl_mechanism=SCRAM-SHA-512 (without it PLAIN is used)"
    ),
}


def no_leader(partitions: Iterable[int]) -> str:
    """What is wrong with a topic of which these partitions have no leader; empty if there are none."""
    numbers = ", ".join(map(str, partitions))
    return f"no leader of partition {numbers}" if numbers else ""


def may_read(operations: Collection[str] | None) -> bool:
    """Whether a client may read a topic, by what the broker says of its rights; True if that says nothing.

    Args:
        operations: names of what is allowed. Without DESCRIBE, which any right includes, the broker does not know.
    """
    return not operations or "DESCRIBE" not in operations or "READ" in operations


def refusal(location: str, reason: str, code: int | None) -> str:
    """What a broker refuses, and what to do about it.

    Args:
        location: of the broker, for people.
        reason: what the library says.
        code: the error's number in Kafka's protocol, if it has one.
    """
    return f"{location} refuses this client: {reason.rstrip('.')}.{advice_for(code)}"


def advice_for(code: int | None) -> str:
    """What to do about an error, as a sentence to put behind another; empty if there is nothing special to do."""
    advice = _ADVICE.get(code or 0)
    return f" {advice}." if advice else ""
