"""Notifies signals and metrics of what happened to messages, after the database has committed it.

Relay, consumer and inbox call this once per batch or per failure. Without receivers, a call costs almost nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from django.dispatch import Signal

from django_outbox import signals
from django_outbox.events.writer import Outgoing
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.observability.logging import Message, attempt_of, log_extra
from django_outbox.state.rows import LockedMessage

log = logging.getLogger(__name__)


class Acknowledged(Protocol):
    """A message that the broker acknowledged, and its position."""

    @property
    def id(self) -> int: ...
    @property
    def partition(self) -> int | None: ...
    @property
    def offset(self) -> int | None: ...


class Observer:
    """Receives what a worker does. Override the methods that you need; they run in the worker's loop and must be quick."""

    def published(self, messages: Sequence[Outgoing], seconds: float) -> None:
        """The broker acknowledged messages, after so many seconds."""

    def consumed(self, messages: Sequence[LockedMessage | InboxMessage]) -> None:
        """Messages were handled."""

    def failed(self, message: Message, *, final: bool) -> None:
        """An attempt failed and was counted; ``final``: the message is dead."""

    def dead(self, message: Message) -> None:
        """A message is dead, after its last failure or at once."""


_observers: list[Observer] = []


@contextmanager
def observed_by(observer: Observer) -> Iterator[None]:
    """Register an observer for the events of this process."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def published(
    messages: Sequence[Outgoing], acknowledged: Sequence[Acknowledged], seconds: float, *, using: str
) -> None:
    """Report messages that the broker acknowledged, once their status is committed.

    Args:
        messages: the batch.
        acknowledged: the acknowledged messages of the batch.
        seconds: how long the broker took.
        using: alias of the database.
    """
    if not acknowledged or not (_observers or signals.message_published.receivers):
        return
    by_id = {message.id: message for message in messages}
    sent = [by_id[each.id] for each in acknowledged]
    _notify(lambda observer: observer.published(sent, seconds))
    if signals.message_published.receivers:
        for message, place in zip(sent, acknowledged, strict=True):
            _send(signals.message_published, message, using, partition=place.partition, offset=place.offset)


def consumed(messages: Sequence[LockedMessage | InboxMessage], *, group: str, using: str) -> None:
    """Report handled messages, once their status is committed."""
    if not messages or not (_observers or signals.message_consumed.receivers):
        return
    _notify(lambda observer: observer.consumed(messages))
    if signals.message_consumed.receivers:
        for message in messages:
            _send(signals.message_consumed, message, using, group=group)


def failed(message: Message, error: BaseException | str, *, final: bool, using: str) -> None:
    """Report a counted failure; ``final``: the message is dead."""
    _notify(lambda observer: observer.failed(message, final=final))
    _send(signals.message_failed, message, using, counted=True, error=error, final=final)
    if final:
        dead(message, error, using=using, counted=True)


def dead(message: Message, error: BaseException | str, *, using: str, counted: bool = False) -> None:
    """Report a dead message; ``counted``: see ``attempt_of``."""
    _notify(lambda observer: observer.dead(message))
    _send(signals.message_dead, message, using, counted=counted, error=error)


def _notify(call: Callable[[Observer], None]) -> None:
    for observer in _observers:
        try:
            call(observer)
        except Exception:  # an observer must not change what the worker does
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
