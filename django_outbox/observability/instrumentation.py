"""Tells those who watch a worker what became of messages, once the database has committed it.

Relay, consumer and inbox call this once a batch, or once a failure. Signals and metrics are on top of it. When
neither is wanted, a call costs one look at whether anybody listens.
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


class Placed(Protocol):
    """That a message is in the broker's log, and where."""

    @property
    def id(self) -> int: ...
    @property
    def partition(self) -> int | None: ...
    @property
    def offset(self) -> int | None: ...


class Observer:
    """Is told what a worker does. Runs in the worker's loop, so it has to be quick; override what is wanted."""

    def published(self, messages: Sequence[Outgoing], seconds: float) -> None:
        """Messages are in the broker's log, and took so long to send."""

    def consumed(self, messages: Sequence[LockedMessage | InboxMessage]) -> None:
        """Messages have been handled."""

    def failed(self, message: Message, *, final: bool) -> None:
        """A try failed and counts; the message is dead if it was the last."""

    def dead(self, message: Message) -> None:
        """A message is given up, be it at its last failure or at once."""


_observers: list[Observer] = []


@contextmanager
def observed_by(observer: Observer) -> Iterator[None]:
    """Let an observer be told what this process does."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def published(messages: Sequence[Outgoing], placed: Sequence[Placed], seconds: float, *, using: str) -> None:
    """Tell what the broker has acknowledged and the database has marked so.

    Args:
        messages: those that were sent.
        placed: the acknowledged ones among them.
        seconds: how long the broker took for all.
        using: alias of the database.
    """
    if not placed or not (_observers or signals.message_published.receivers):
        return
    by_id = {message.id: message for message in messages}
    acknowledged = [by_id[each.id] for each in placed]
    _tell(lambda observer: observer.published(acknowledged, seconds))
    if signals.message_published.receivers:
        for message, place in zip(acknowledged, placed, strict=True):
            _send(signals.message_published, message, using, partition=place.partition, offset=place.offset)


def consumed(messages: Sequence[LockedMessage | InboxMessage], *, group: str, using: str) -> None:
    """Tell what has been handled and marked so."""
    if not messages or not (_observers or signals.message_consumed.receivers):
        return
    _tell(lambda observer: observer.consumed(messages))
    if signals.message_consumed.receivers:
        for message in messages:
            _send(signals.message_consumed, message, using, group=group)


def failed(message: Message, error: BaseException | str, *, final: bool, using: str) -> None:
    """Tell that a try failed and was counted, and that the message is dead if it was the last."""
    _tell(lambda observer: observer.failed(message, final=final))
    _send(signals.message_failed, message, using, counted=True, error=error, final=final)
    if final:
        dead(message, error, using=using, counted=True)


def dead(message: Message, error: BaseException | str, *, using: str, counted: bool = False) -> None:
    """Tell that a message is given up.

    Args:
        message: which.
        error: why.
        using: alias of the database.
        counted: see ``logs.attempt_of``.
    """
    _tell(lambda observer: observer.dead(message))
    _send(signals.message_dead, message, using, counted=counted, error=error)


def _tell(what: Callable[[Observer], None]) -> None:
    for observer in _observers:
        try:
            what(observer)
        except Exception:  # what only watches must not change what happens
            log.exception("A metric could not be counted.", extra={"action": "observed"})


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
    except Exception:  # send_robust itself raises if a receiver does that is no function, and has no name to be logged
        log.exception("A receiver of a signal raised.", extra=log_extra("signal", message, counted=counted))
