"""Traces with OpenTelemetry's API: an SDK records spans; without one, only the context is passed on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

from django.utils.module_loading import import_string
from opentelemetry import context, propagate, trace
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from django_outbox.events.event import Event
from django_outbox.exceptions import text_of
from django_outbox.observability.tracing import names
from django_outbox.observability.tracing.base import (
    NOT_CREATING,
    NOT_SENDING,
    Handlers,
    Harmless,
    Note,
    Processing,
    Run,
    Tracing,
    add_headers,
    run_handlers,
)
from django_outbox.observability.tracing.names import Message

_BAGGAGE = "baggage"


class OpenTelemetryTracing(Tracing):
    """Spans by OpenTelemetry's conventions for messaging."""

    def __init__(self) -> None:
        self._provider: trace.TracerProvider | None = None
        self._tracer: trace.Tracer = trace.NoOpTracer()

    @property
    def tracer(self) -> trace.Tracer:
        """The tracer of the current provider."""
        provider = trace.get_tracer_provider()
        if provider is not self._provider:
            version = import_string(f"{names.SCOPE}.__version__")
            self._tracer = provider.get_tracer(names.SCOPE, version, schema_url=names.SCHEMA_URL)
            self._provider = provider
        return self._tracer

    @property
    def records(self) -> bool:
        """True if an SDK records spans."""
        return not isinstance(trace.get_tracer_provider(), (trace.ProxyTracerProvider, trace.NoOpTracerProvider))

    @property
    def fields(self) -> Iterable[str]:
        """See ``Tracing``: ``traceparent``, ``tracestate`` and ``baggage``, unless OTEL_PROPAGATORS says otherwise."""
        return propagate.get_global_textmap().fields

    def creating(self, messages: Sequence[Message]) -> AbstractContextManager[None]:
        """See ``Tracing``. Does nothing without a current span."""
        if not trace.get_current_span().get_span_context().is_valid:
            return NOT_CREATING
        return self._creating(messages)

    @contextmanager
    def _creating(self, messages: Sequence[Message]) -> Iterator[None]:
        spans: list[trace.Span] = []
        with Harmless():
            spans.extend(self._created(messages))
        try:
            if len(messages) == 1 and spans:
                with _current(spans[0]):
                    yield
            else:
                yield
        except BaseException as error:
            for span in spans:
                _fail(span, error)
            raise
        finally:
            for span in spans:
                with Harmless():
                    span.end()

    def _created(self, messages: Sequence[Message]) -> Iterator[trace.Span]:
        tracer = self.tracer
        own = {name.lower() for name in self.fields} - {_BAGGAGE}
        for message in messages:
            if any(name.lower() in own for name in message.headers):
                continue  # the caller set its own context
            span = tracer.start_span(
                names.span_name(names.CREATE, message.topic), kind=SpanKind.PRODUCER, attributes=names.created(message)
            )
            yield span
            carrier: dict[str, str] = {}
            propagate.inject(carrier, trace.set_span_in_context(span))
            add_headers(message, carrier)

    def sending(self, messages: Sequence[Message]) -> AbstractContextManager[Note]:
        """See ``Tracing``. The kind is CLIENT, as messages carry the context of the "create" span."""
        if not self.records:
            return NOT_SENDING
        with Harmless():
            topic = names.one_topic(messages)
            span = self.tracer.start_span(
                names.span_name(names.SEND, topic),
                kind=SpanKind.CLIENT,
                attributes=names.sent(len(messages), topic),
                links=[link for message in messages if (link := _link_to_creation(message)) is not None],
            )
            return _sending(span, messages)
        return NOT_SENDING

    def processing(self, group: str, *, using: str, together: bool) -> AbstractContextManager[Run]:
        """See ``Tracing``."""
        return _Processing(self.tracer, group, together=together, bare=not self.records)


@contextmanager
def _sending(span: trace.Span, messages: Sequence[Message]) -> Iterator[Note]:
    def note(outcomes: Sequence[Any]) -> None:
        with Harmless():
            if span.is_recording():
                _note(span, messages, outcomes)

    try:
        with _current(span):
            yield note
    except BaseException as error:
        _fail(span, error)
        raise
    finally:
        with Harmless():
            span.end()


class _Processing(Processing[trace.Span]):
    def __init__(self, tracer: trace.Tracer, group: str, *, together: bool, bare: bool) -> None:
        super().__init__(together=together)
        self._tracer = tracer
        self._group = group
        self._bare = bare

    def run(self, event: Event, handlers: Handlers) -> None:
        if self._bare and not event.headers:
            run_handlers(event, handlers)  # nothing to record and no context to pass on
        else:
            super().run(event, handlers)

    def start(self, event: Event) -> tuple[trace.Span, Callable[[], None]]:
        """A child of the span that created the message, with a link to it.

        If the project called the consumer within its own span, that one is the parent.
        """
        ambient = trace.get_current_span()
        parent = propagate.extract(event.headers, context.Context())
        creation = trace.get_current_span(parent).get_span_context()
        if ambient.get_span_context().is_valid:
            parent = trace.set_span_in_context(ambient, propagate.extract(event.headers, context.get_current()))
        span = self._tracer.start_span(
            names.span_name(names.PROCESS, event.topic),
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes=names.processed(event, self._group),
            links=[Link(creation)] if creation.is_valid else None,
        )
        token = context.attach(trace.set_span_in_context(span, parent))
        return span, lambda: context.detach(token)

    def finish(self, span: trace.Span, ended_ns: int, error: BaseException | None, *, redone: bool) -> None:
        if redone:
            span.set_attribute(names.REDONE, True)
        if error is not None:
            _fail(span, error)
        elif redone:
            span.set_attribute(names.ERROR_TYPE, names.ROLLED_BACK)
            span.set_status(
                Status(StatusCode.ERROR, "Rolled back: another message of the transaction failed. It will be redone.")
            )
        span.end(ended_ns)


def _current(span: trace.Span) -> AbstractContextManager[trace.Span]:
    return trace.use_span(span, record_exception=False, set_status_on_exception=False)


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


def _note(span: trace.Span, messages: Sequence[Message], outcomes: Sequence[Any]) -> None:
    """Record the messages that the broker did not accept: their outcomes have a ``reason``."""
    left = [
        (message, outcome)
        for message, outcome in zip(messages, outcomes, strict=True)
        if getattr(outcome, "reason", None) is not None
    ]
    for message, outcome in left:
        kind = type(outcome).__name__
        span.add_event(
            names.NOT_SENT,
            {
                **names.of_message(message),
                names.DESTINATION: message.topic,
                names.ERROR_TYPE: kind,
                names.REASON: outcome.reason,
            },
        )
    if left:
        span.set_attribute(names.ERROR_TYPE, type(left[0][1]).__name__)
        span.set_status(Status(StatusCode.ERROR, f"{len(left)} of {len(messages)} messages were not sent."))
