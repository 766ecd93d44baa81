"""What librdkafka's errors mean, in Kafka's terms."""

from __future__ import annotations

import re

from confluent_kafka import KafkaError, KafkaException

from django_outbox.brokers.errors import Blame, ClientError, Code
from django_outbox.brokers.secrets import masked

# Errors that only the library has, with the code that says the same.
_CODES = {
    KafkaError._ASSIGNMENT_LOST: Code.REBALANCE_IN_PROGRESS,
    KafkaError._INVALID_DIFFERENT_RECORD: Code.CORRUPT_MESSAGE,
    KafkaError._MSG_TIMED_OUT: Code.REQUEST_TIMED_OUT,
    KafkaError._NO_OFFSET: Code.REBALANCE_IN_PROGRESS,
    KafkaError._TIMED_OUT: Code.REQUEST_TIMED_OUT,
    KafkaError._TRANSPORT: Code.NETWORK_EXCEPTION,
    KafkaError._UNKNOWN_PARTITION: Code.UNKNOWN_TOPIC_OR_PARTITION,
    KafkaError._UNKNOWN_TOPIC: Code.UNKNOWN_TOPIC_OR_PARTITION,
    KafkaError._UNSUPPORTED_FEATURE: Code.UNSUPPORTED_VERSION,
    KafkaError._WAIT_COORD: Code.COORDINATOR_NOT_AVAILABLE,
}
_LOGIN_ERRORS = {
    "Unsupported SASL mechanism": Code.UNSUPPORTED_SASL_MECHANISM,
    "not valid in current SASL state": Code.ILLEGAL_SASL_STATE,
}
# Reports on records that this producer gave up; the last one if it had to end first.
_GIVEN_UP = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT, KafkaError._DESTROY})

_WHERE = re.compile(r"^\w+://\S+/bootstrap: ")
_HOW_LONG = re.compile(r" \(after \d+ms in state (?:\(s\)|[^)])*\)")


def client_error(error: BaseException | KafkaError) -> ClientError:
    """An error of the library, or one that it raises, in Kafka's terms."""
    told = told_by(error)
    if told is None:
        return ClientError(None, str(error), late=isinstance(error, TimeoutError))
    code = _login_code(told) if told.code() == KafkaError._AUTHENTICATION else _CODES.get(told.code(), told.code())
    late = code == Code.REQUEST_TIMED_OUT or told.code() in _GIVEN_UP
    return ClientError(code, error_text(told), fatal=told.fatal(), late=late)


def told_by(error: BaseException | KafkaError | None) -> KafkaError | None:
    """The library's error behind an exception."""
    if isinstance(error, KafkaError):
        return error
    if isinstance(error, KafkaException) and error.args and isinstance(error.args[0], KafkaError):
        return error.args[0]
    return None


def is_answer(error: BaseException | None) -> bool:
    """True if a broker answered; False if there was no answer, or one that concerns the client."""
    if error is None:
        return True
    told = told_by(error)
    return told is not None and told.code() >= 0 and Blame.CLIENT not in client_error(told).blame


def error_text(error: KafkaError) -> str:
    """What an error says, without secrets, the servers of the URL, and times."""
    return masked(_WHERE.sub("", _HOW_LONG.sub("", error.str())).rstrip(".")) or error.name()


def _login_code(error: KafkaError) -> Code:
    """The library has one error for all logins that failed."""
    return next((code for text, code in _LOGIN_ERRORS.items() if text in error.str()), Code.SASL_AUTHENTICATION_FAILED)
