"""Reports failed and dead messages to the log, to signals and to metrics."""

from __future__ import annotations

import logging

from django_outbox.exceptions import text_of
from django_outbox.models import InboxMessage
from django_outbox.observability import instrumentation
from django_outbox.observability.logging import log_extra, repeats, said, said_in_full
from django_outbox.state.rows import LockedMessage

Message = LockedMessage | InboxMessage


def report_failed(log: logging.Logger, message: Message, error: Exception, *, final: bool, using: str) -> None:
    """Report a counted failure of a handler.

    Args:
        log: the logger.
        message: its ``retry_count`` includes this failure.
        error: the exception.
        final: the message is now dead.
        using: alias of the database.
    """
    repeats.log_failure(
        log,
        logging.ERROR if final else logging.WARNING,
        "failed",
        message,
        error,
        "%s failed (%d of %d) and is %s: %s",
        name_of(message),
        message.retry_count,
        max(message.max_retry, 1),
        "dead" if final else "pending",
        said(error, message),
        counted=True,
    )
    if log.isEnabledFor(logging.DEBUG):
        extra = log_extra("traceback", message, counted=True)
        log.debug("Traceback of the failure:\n%s", said_in_full(error, message), extra=extra)
    instrumentation.failed(message, error, final=final, using=using)


def report_dead(log: logging.Logger, message: Message, error: BaseException | str, *, using: str) -> None:
    """Report a message that can never be handled."""
    text = said(message.last_error if isinstance(message, InboxMessage) else text_of(error), message)
    repeats.log_failure(log, logging.ERROR, "dead", message, error, "%s is dead: %s", name_of(message), text)
    instrumentation.dead(message, error, using=using)


def name_of(message: Message) -> str:
    """The name of a message in a log line."""
    if not isinstance(message, InboxMessage):
        return f"Message {message.id} ({message.event_type})"
    kind = message.event_type or f"{message.topic}[{message.partition}]@{message.offset}"
    return f"Inbox message {message.id} ({kind} from {message.source or 'an unknown source'})"
