"""What kafka-python's errors mean, in Kafka's terms."""

from __future__ import annotations

import re

from kafka import errors as kafka_errors

from django_outbox.brokers.errors import ClientError, Code
from django_outbox.brokers.secrets import masked

# These do not say why a connection failed.
VAGUE = (kafka_errors.KafkaTimeoutError, kafka_errors.RequestTimedOutError)

_FATAL = (kafka_errors.IllegalStateError, kafka_errors.KafkaProtocolError)
# Errors of the broker start with their number and name, some with the name twice.
_NUMBER = re.compile(r"^\[Error -?\d+\] (?:(\w+): (?=\1))?")


def client_error(error: BaseException) -> ClientError:
    """An error of kafka-python in Kafka's terms."""
    code = getattr(error, "errno", None)
    if isinstance(error, kafka_errors.CommitFailedError):
        code = Code.REBALANCE_IN_PROGRESS
    elif not (isinstance(error, kafka_errors.BrokerResponseError) and isinstance(code, int)):
        code = None
    fatal = isinstance(error, _FATAL)
    return ClientError(
        code,
        error_text(error),
        fatal=fatal,
        late=isinstance(error, kafka_errors.KafkaTimeoutError | TimeoutError),
        of_record=code is None and not fatal and not getattr(error, "retriable", True),
    )


def error_for(code: int, text: str | None = None) -> ClientError | None:
    """The error with a code of the protocol, and the broker's text for it; None for the code that means success."""
    error = kafka_errors.for_code(code)
    return None if error is kafka_errors.NoError else client_error(error(text) if text else error())


def error_text(error: BaseException) -> str:
    """What an error says, without secrets; if it has no text, its description."""
    description = getattr(error, "description", None)
    if description and error.args in ((), (None,)):
        return f"{type(error).__name__}: {description.rstrip('.')}"
    return masked(_NUMBER.sub("", str(error))) or type(error).__name__


def is_vague(error: BaseException) -> bool:
    """True if the error does not say why a connection failed."""
    return isinstance(error, VAGUE) or any(text in str(error) for text in ("timed out", "socket disconnected"))


def is_of_listener(error: BaseException) -> bool:
    """True if something listens at the port, and then closes the connection or breaks with the protocol."""
    if isinstance(error, (ConnectionRefusedError, TimeoutError, *VAGUE)) or "timed out" in str(error):
        return False
    return isinstance(error, kafka_errors.KafkaConnectionError | kafka_errors.KafkaProtocolError | OSError)
