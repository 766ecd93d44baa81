"""The hooks that publishing, relay and consumer call; they do nothing without a tracing library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cache

from django_outbox.conf import settings
from django_outbox.models.validation import headers_as_text
from django_outbox.observability.tracing.base import NOT_CREATING, NOT_PROCESSING, NOT_SENDING, Note, Run, Tracing
from django_outbox.observability.tracing.names import Message


def creating(messages: Sequence[Message]) -> AbstractContextManager[None]:
    """See ``Tracing.creating``."""
    tracing = _tracing()
    return NOT_CREATING if tracing is None else tracing.creating(messages)


def sending(messages: Sequence[Message]) -> AbstractContextManager[Note]:
    """See ``Tracing.sending``."""
    tracing = _tracing()
    return NOT_SENDING if tracing is None else tracing.sending(messages)


def processing(group: str, *, using: str, together: bool) -> AbstractContextManager[Run]:
    """See ``Tracing.processing``."""
    tracing = _tracing()
    return NOT_PROCESSING if tracing is None else tracing.processing(group, using=using, together=together)


def carried(headers: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    """The headers of a record with trace context, as text that every database can store."""
    tracing = _tracing()
    return {} if tracing is None else headers_as_text(tracing.carried(headers))


def _tracing() -> Tracing | None:
    kind = settings.tracing
    return None if kind is None else _made(kind)


@cache
def _made(kind: Callable[[], Tracing]) -> Tracing:
    return kind()
