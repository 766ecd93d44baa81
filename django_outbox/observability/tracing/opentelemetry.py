"""Traces with OpenTelemetry's API: an SDK records spans; without one, only the context is passed on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import lru_cache, partial
from typing import Any

from opentelemetry import context, propagate, trace
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from django_outbox import __version__
from django_outbox.events.event import Event
from django_outbox.exceptions import text_of
from django_outbox.observability.tracing import names
from django_outbox.observability.tracing.base import (
    NOTHING,
    Finish,
    Note,
    Processing,
    Run,
    Tracing,
    add_headers,
    harmless,
)
from django_outbox.observability.tracing.names import Message


class OpenTelemetryTracing(Tracing):
    """Spans by OpenTelemetry's conventions for messaging."""

    @property
    def fields(self) -> Iterable[str]:
        """See ``Tracing``: ``traceparent``, ``tracestate`` and ``baggage``, unless OTEL_PROPAGATORS says otherwise."""
        return propagate.get_global_textmap().fields

    @contextmanager
    def creating(self, messages: Sequence[Message]) -> Iterator[None]:
        """See ``Tracing``. Does nothing without a current span."""
        with ExitStack() as spans:
            if trace.get_current_span().get_span_context().is_valid:
                with harmless():
                    for span in self._created(messages):
                        spans.enter_context(_ending(span, is_current=len(messages) == 1))
            yield

    def _created(self, messages: Sequence[Message]) -> Iterator[trace.Span]:
        own = {name.lower() for name in self.fields} - {"baggage"}
        for message in messages:
            if any(name.lower() in own for name in message.headers):
                continue  # the caller set its own context
            span = _tracer().start_span(
                f"create {message.topic}", kind=SpanKind.PRODUCER, attributes=names.created(message)
            )
            yield span
            carrier: dict[str, str] = {}
            propagate.inject(carrier, trace.set_span_in_context(span))
            add_headers(message, carrier)

    def sending(self, messages: Sequence[Message]) -> AbstractContextManager[Note]:
        """See ``Tracing``. The kind is CLIENT, as messages carry the context of the "create" span."""
        if _is_recording():
            with harmless():
                name, attributes = names.sent(messages)
                links = [link for message in messages if (link := _link_to_creation(message)) is not None]
                span = _tracer().start_span(name, kind=SpanKind.CLIENT, attributes=attributes, links=links)
                return _sending(span, messages)
        return NOTHING.sending(messages)

    def processing(self, group: str, *, using: str, together: bool) -> AbstractContextManager[Run]:
        return Processing(partial(_start, group), together=together)


def _is_recording() -> bool:
    """True if an SDK records spans."""
    return not isinstance(trace.get_tracer_provider(), (trace.ProxyTracerProvider, trace.NoOpTracerProvider))


def _tracer() -> trace.Tracer:
    return _tracer_of(trace.get_tracer_provider())


@lru_cache(maxsize=1)
def _tracer_of(provider: trace.TracerProvider) -> trace.Tracer:
    return provider.get_tracer("django_outbox", __version__, schema_url=names.SCHEMA_URL)


@contextmanager
def _ending(span: trace.Span, *, is_current: bool = True) -> Iterator[None]:
    """Ends a span; an exception makes it an error."""
    try:
        with ExitStack() as stack:
            if is_current:
                stack.enter_context(trace.use_span(span, record_exception=False, set_status_on_exception=False))
            yield
    except BaseException as error:
        _fail(span, error)
        raise
    finally:
        with harmless():
            span.end()


@contextmanager
def _sending(span: trace.Span, messages: Sequence[Message]) -> Iterator[Note]:
    def note(results: Sequence[Any]) -> None:
        with harmless():
            if span.is_recording():
                _note(span, messages, results)

    with _ending(span):
        yield note


def _start(group: str, events: Sequence[Event]) -> tuple[Callable[[], object], Finish] | None:
    """Start a child of the span that created the message, with a link to it; for a batch, only with links.

    If the project called the consumer within its own span, that one is the parent.
    """
    if not _is_recording() and not any(event.headers for event in events):
        return None  # nothing to record and no context to pass on
    ambient = trace.get_current_span()
    headers = events[0].headers if len(events) == 1 else {}
    parent = propagate.extract(headers, context.Context())
    if ambient.get_span_context().is_valid:
        parent = trace.set_span_in_context(ambient, propagate.extract(headers, context.get_current()))
    span = _tracer().start_span(
        f"process {events[0].topic}",
        context=parent,
        kind=SpanKind.CONSUMER,
        attributes=names.processed(events, group),
        links=_links_to_creation(events),
    )
    token = context.attach(trace.set_span_in_context(span, parent))
    return partial(context.detach, token), partial(_finish, span)


def _links_to_creation(events: Sequence[Event]) -> list[Link]:
    links = []
    for event in events:
        creation = trace.get_current_span(propagate.extract(event.headers, context.Context())).get_span_context()
        if creation.is_valid:
            links.append(Link(creation, names.identity(event) if len(events) > 1 else None))
    return links


def _finish(span: trace.Span, ended_ns: int, error: BaseException | None, redone: bool) -> None:
    if redone:
        span.set_attribute(names.REDONE, True)
    if error is not None:
        _fail(span, error)
    elif redone:
        span.set_attribute(names.ERROR_TYPE, names.ROLLED_BACK)
        text = "Rolled back: another message of the transaction failed. It will be redone."
        span.set_status(Status(StatusCode.ERROR, text))
    span.end(ended_ns)


def _fail(span: trace.Span, error: BaseException) -> None:
    if span.is_recording():
        with suppress(Exception):  # str(error) may raise
            span.record_exception(error)
        span.set_attribute(names.ERROR_TYPE, names.error_type(error))
        span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {text_of(error)}"))


def _link_to_creation(message: Message) -> Link | None:
    if not message.headers:
        return None
    creation = trace.get_current_span(propagate.extract(message.headers, context.Context())).get_span_context()
    return Link(creation, names.of_message(message)) if creation.is_valid else None


def _note(span: trace.Span, messages: Sequence[Message], results: Sequence[Any]) -> None:
    """Record the messages that the broker did not accept: their results have a ``reason``."""
    left = [pair for pair in zip(messages, results, strict=True) if getattr(pair[1], "reason", None) is not None]
    for message, result in left:
        attributes = {names.DESTINATION: message.topic, names.ERROR_TYPE: type(result).__name__}
        span.add_event(names.NOT_SENT, {**names.of_message(message), **attributes, names.REASON: result.reason})
    if left:
        span.set_attribute(names.ERROR_TYPE, type(left[0][1]).__name__)
        span.set_status(Status(StatusCode.ERROR, f"{len(left)} of {len(messages)} messages were not sent."))
