"""OpenTelemetry's SDK with an exporter in memory, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import context, propagate, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, StatusCode


class Spans:
    """What has been recorded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        provider = self.provider = TracerProvider(**options)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
        self._tracer = provider.get_tracer("tests")

    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def of(self, operation: str) -> list[ReadableSpan]:
        """The finished spans of an operation, in the order in which they began."""
        spans = [span for span in self.all() if attributes(span).get("messaging.operation.type") == operation]
        return sorted(spans, key=lambda span: span.start_time or 0)

    def one(self, operation: str) -> ReadableSpan:
        (span,) = self.of(operation)
        return span

    def named(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.all() if span.name == name]
        return span

    @contextmanager
    def request(self) -> Iterator[trace.Span]:
        """A span of the project's own, such as that of a request."""
        with self._tracer.start_as_current_span("request") as span:
            yield span


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def identity(span: ReadableSpan | trace.Span) -> tuple[int, int]:
    """What tells a span from all others: those of its trace and its own."""
    found: SpanContext | None = span.get_span_context()
    assert found is not None
    return found.trace_id, found.span_id


def parent_of(span: ReadableSpan) -> tuple[int, int] | None:
    return None if span.parent is None else (span.parent.trace_id, span.parent.span_id)


def links_of(span: ReadableSpan) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def carried_by(headers: Any) -> tuple[int, int]:
    """The span that headers name as the one to go on from."""
    found = trace.get_current_span(propagate.extract(dict(headers), context.Context())).get_span_context()
    return found.trace_id, found.span_id


def failed(span: ReadableSpan) -> bool:
    return span.status.status_code is StatusCode.ERROR
