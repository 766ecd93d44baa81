"""Reports what happened to messages, after the commit: to the log, to signals and to metrics."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from django.dispatch import Signal

from django_outbox import signals
from django_outbox.events.writer import Outgoing
from django_outbox.exceptions import text_of
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.observability.logging import Message, attempt_of, log_extra, repeats, said, said_in_full
from django_outbox.observability.metrics import Metrics
from django_outbox.state.dialects.results import Published
from django_outbox.state.rows import LockedMessage

log = logging.getLogger(__name__)

_observers: list[Metrics] = []


@contextmanager
def observed_by(metrics: Metrics) -> Iterator[None]:
    """Count the messages of this process inside the block."""
    _observers.append(metrics)
    try:
        yield
    finally:
        _observers.remove(metrics)


def published(messages: Sequence[Outgoing], acknowledged: Sequence[Published], seconds: float, *, using: str) -> None:
    """Report those messages of a batch that the broker acknowledged, after so many seconds."""
    if not acknowledged or not (_observers or signals.message_published.receivers):
        return
    by_id = {message.id: message for message in messages}
    sent = [by_id[each.id] for each in acknowledged]
    _notify(lambda metrics: metrics.published(sent, seconds))
    if signals.message_published.receivers:
        for message, place in zip(sent, acknowledged, strict=True):
            _send(signals.message_published, message, using, partition=place.partition, offset=place.offset)


def consumed(messages: Sequence[LockedMessage | InboxMessage], *, group: str, using: str) -> None:
    """Report handled messages, once their status is committed."""
    if not messages or not (_observers or signals.message_consumed.receivers):
        return
    _notify(lambda metrics: metrics.consumed(messages))
    if signals.message_consumed.receivers:
        for message in messages:
            _send(signals.message_consumed, message, using, group=group)


def failed(message: Message, error: BaseException | str, *, final: bool, using: str) -> None:
    """Report a counted failure; ``final``: the message is dead."""
    _notify(lambda metrics: metrics.failed(message, final=final))
    _send(signals.message_failed, message, using, counted=True, error=error, final=final)
    if final:
        dead(message, error, using=using, counted=True)


def dead(message: Message, error: BaseException | str, *, using: str, counted: bool = False) -> None:
    """Report a dead message; ``counted``: see ``attempt_of``."""
    _notify(lambda metrics: metrics.dead(message))
    _send(signals.message_dead, message, using, counted=counted, error=error)


def requeued(reason: str, number: int = 1) -> None:
    """Report messages of the outbox that a consumer put back; see ``REQUEUED`` for the reasons."""
    _notify(lambda metrics: metrics.requeued.add((reason,), number))


def _notify(call: Callable[[Metrics], None]) -> None:
    for metrics in _observers:
        try:
            call(metrics)
        except Exception:  # must not change what the worker does
            log.exception("An observer failed; its metric was not counted.", extra={"action": "observed"})


def _send(signal: Signal, message: Message, using: str, *, counted: bool = False, **details: object) -> None:
    if not signal.receivers:
        return
    try:
        signal.send_robust(
            sender=InboxMessage if isinstance(message, InboxMessage) else OutboxMessage,
            message_id=message.id,
            event_id=str(message.event_id),
            event_type=message.event_type,
            topic=message.topic,
            key=message.message_key,
            attempt=attempt_of(message, counted=counted),
            using=using,
            **details,
        )
    except Exception:  # send_robust raises for a failing receiver without a name, such as a partial
        log.exception("A signal receiver failed.", extra=log_extra("signal", message, counted=counted))


def report_failed(
    log: logging.Logger, message: LockedMessage | InboxMessage, error: Exception, *, final: bool, using: str
) -> None:
    """Log and report a counted failure of a handler, which ``retry_count`` includes; ``final``: the message is dead."""
    level, status = (logging.ERROR, "dead") if final else (logging.WARNING, "pending")
    counts = (message.retry_count, max(message.max_retry, 1))
    arguments = (name_of(message), *counts, status, said(error, message))
    text = "%s failed (%d of %d) and is %s: %s"
    repeats.log_failure(log, level, "failed", message, error, text, *arguments, counted=True)
    if log.isEnabledFor(logging.DEBUG):
        extra = log_extra("traceback", message, counted=True)
        log.debug("Traceback of the failure:\n%s", said_in_full(error, message), extra=extra)
    failed(message, error, final=final, using=using)


def report_dead(
    log: logging.Logger, message: LockedMessage | InboxMessage, error: BaseException | str, *, using: str
) -> None:
    """Log and report a message that can never be handled."""
    text = said(error, message, message.last_error if isinstance(message, InboxMessage) else text_of(error))
    repeats.log_failure(log, logging.ERROR, "dead", message, error, "%s is dead: %s", name_of(message), text)
    dead(message, error, using=using)


def name_of(message: LockedMessage | InboxMessage) -> str:
    """The name of a message in a log line."""
    if not isinstance(message, InboxMessage):
        return f"Message {message.id} ({message.event_type})"
    kind = message.event_type or f"{message.topic}[{message.partition}]@{message.offset}"
    return f"Inbox message {message.id} ({kind} from {message.source or 'an unknown source'})"
