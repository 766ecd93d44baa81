"""Sentry: traces that continue through the outbox, and each handler error once.

``OUTBOX = {"TRACING": "django_outbox.observability.sentry.SentryTracing"}``; see the page on traces in the documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from django_outbox.events.event import Event
from django_outbox.exceptions import Reject, Retry
from django_outbox.observability.masking import without_values
from django_outbox.observability.tracing import names
from django_outbox.observability.tracing.base import NOTHING, Finish, Note, Processing, Run, Tracing, add_headers
from django_outbox.observability.tracing.names import Message
from django_outbox.worker.database_errors import is_transient

try:
    import sentry_sdk
    from sentry_sdk.scope import add_global_event_processor, use_isolation_scope, use_scope
except ImportError as error:
    raise ImproperlyConfigured("Sentry's SDK is not installed: pip install sentry-sdk.") from error

# Source: Sentry's documentation, "Instrument Queues". The names with "outbox" follow those of its integrations.
ORIGIN = "auto.queue.outbox"
SENTRY_TRACE = "sentry-trace"


class SentryTracing(Tracing):
    """A span for ``publish()``, a transaction for each batch of the relay, and one for each handled message.

    The last continues the trace of the publisher, and captures handler errors with their stack. The log line about the
    same failure is dropped.
    """

    def __init__(self) -> None:
        add_global_event_processor(_drop_duplicate)

    @property
    def fields(self) -> Iterable[str]:
        return (SENTRY_TRACE, "baggage")

    @contextmanager
    def creating(self, messages: Sequence[Message]) -> Iterator[None]:
        """See ``Tracing``. Does nothing without a current span."""
        parent = sentry_sdk.get_current_span()
        with ExitStack() as spans:
            for message in messages:
                if parent is None or any(name.lower() == SENTRY_TRACE for name in message.headers):
                    continue  # the caller set its own context
                span = spans.enter_context(parent.start_child(op="queue.publish", name=message.topic, origin=ORIGIN))
                for name, value in names.created(message).items():
                    span.set_data(name, value)
                add_headers(message, dict(span.iter_headers()))
            yield

    def sending(self, messages: Sequence[Message]) -> AbstractContextManager[Note]:
        return _sending(messages) if sentry_sdk.get_client().is_active() else NOTHING.sending(messages)

    def processing(self, group: str, *, using: str, together: bool) -> AbstractContextManager[Run]:
        if not sentry_sdk.get_client().is_active():
            return NOTHING.processing(group, using=using, together=together)
        return Processing(partial(_start, group, using), together=together)


@contextmanager
def _sending(messages: Sequence[Message]) -> Iterator[Note]:
    name, attributes = names.sent(messages)
    with sentry_sdk.start_transaction(op="queue.submit.outbox", name=name, source="task", origin=ORIGIN) as transaction:
        for attribute, value in attributes.items():
            transaction.set_data(attribute, value)

        def note(results: Sequence[Any]) -> None:
            if left := sum(getattr(result, "reason", None) is not None for result in results):
                transaction.set_data(names.NOT_SENT, left)
                transaction.set_status("internal_error")

        yield note


def _start(group: str, using: str, events: Sequence[Event]) -> tuple[Callable[[], object], Finish]:
    """Start a transaction in the trace of the publisher; that of a batch starts a trace."""
    event = events[0]
    scopes = ExitStack()
    isolation = scopes.enter_context(sentry_sdk.isolation_scope())
    current = sentry_sdk.get_current_scope()
    attributes = names.processed(events, group)
    isolation.clear_breadcrumbs()
    isolation.set_context("outbox", attributes)
    transaction = sentry_sdk.start_transaction(
        sentry_sdk.continue_trace(
            dict(event.headers) if len(events) == 1 else {},
            op="queue.task.outbox",
            name=event.type,
            source="task",
            origin=ORIGIN,
        )
    )
    span = transaction.start_child(op="queue.process", name=event.topic, origin=ORIGIN)
    for name, value in attributes.items():
        span.set_data(name, value)
    if len(events) == 1:
        span.set_data("messaging.message.retry.count", max(0, event.attempt - 1))
    if event.time is not None:
        latency = datetime.now(UTC) - event.time.astimezone(UTC)
        span.set_data("messaging.message.receive.latency", latency.total_seconds() * 1000)
    current.span = span

    def finish(ended_ns: int, error: BaseException | None, redone: bool) -> None:
        if redone:
            span.set_data(names.REDONE, True)
        with use_isolation_scope(isolation), use_scope(current):
            if not redone and _is_failure(error, using):
                current.add_event_processor(partial(_without_payload, [each.payload for each in events]))
                sentry_sdk.capture_exception(error)
            for each in (span, transaction):
                each.set_status("aborted" if redone else "ok" if error is None else "internal_error")
                each.finish(end_timestamp=ended_ns / 1e9)

    return scopes.close, finish


def _is_failure(error: BaseException | None, using: str) -> bool:
    """True for failures of a message; not for Reject and Retry, nor for temporary faults."""
    return isinstance(error, Exception) and not isinstance(error, (Reject, Retry)) and not is_transient(error, using)


def _without_payload(payload: Any, event: Any, hint: Any) -> Any:
    """Remove the payload from an error's text, and local variables from its stack."""
    for exception in event.get("exception", {}).get("values", ()):
        exception["value"] = without_values(str(exception.get("value") or ""), payload)
        for frame in (exception.get("stacktrace") or {}).get("frames", ()):
            frame.pop("vars", None)
    return event


def _drop_duplicate(event: Any, hint: Any) -> Any:
    """Drop the event for the log line of a failure that was captured."""
    record = hint.get("log_record")
    if record is None or not record.name.startswith("django_outbox.") or getattr(record, "action", "") != "failed":
        return event
    kind = getattr(record, "error_type", None)  # only exceptions have one; the relay logs texts, which are not captured
    return event if kind is None or kind in _names_of(Retry) else None


def _names_of(kind: type[BaseException]) -> set[str]:
    return {kind.__name__}.union(*(_names_of(narrower) for narrower in kind.__subclasses__()))
