"""Reads records for the inbox: the wire formats, or what a mapper of the project makes of a record."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.conf import settings
from django_outbox.events.event import Event
from django_outbox.events.identity import record_reference
from django_outbox.events.parsing import content_type_of, headers_of, in_utc
from django_outbox.events.reader import STRUCTURED, EventReader, require_storable, with_position
from django_outbox.exceptions import InvalidMessage, UnreadableRecord
from django_outbox.handlers.timeout import call_within
from django_outbox.models.validation import json_payload
from django_outbox.observability.tracing import hooks as tracing

Mapper = Callable[[ReceivedRecord], Any]


class Reader:
    """Reads records for one consumer group."""

    def __init__(self, *, using: str, wants: Callable[[str, str], bool], takes_own: bool) -> None:
        """
        Args:
            using, wants, takes_own: see ``EventReader``.

        Raises:
            ImproperlyConfigured: ``INBOX`` is wrong.
        """
        self._using = using
        self._wants = wants
        self._mappers = settings.inbox
        self._events = EventReader(using=using, wants=wants, takes_own=takes_own)

    def asks_a_mapper(self, record: ReceivedRecord) -> bool:
        """True if code of the project is to read a record, which may do anything."""
        return self._mappers.get(record.topic) is not None and self._is_foreign_format(record)

    def read(self, record: ReceivedRecord) -> Event | None:
        """The event that a record carries; None if it is not wanted, or ``INBOX`` leaves it alone.

        Raises:
            UnreadableRecord: with the reason.
        """
        if record.fault or record.topic not in self._mappers or not self._is_foreign_format(record):
            return self._events.read(record)
        mapper = self._mappers[record.topic]
        try:
            return None if mapper is None else self._mapped(record, mapper)
        except InvalidMessage as error:
            raise UnreadableRecord(str(error)) from None

    def _is_foreign_format(self, record: ReceivedRecord) -> bool:
        headers = headers_of(record)
        return "ce_specversion" not in headers and not content_type_of(headers).startswith(STRUCTURED)

    def _mapped(self, record: ReceivedRecord, mapper: Mapper) -> Event | None:
        place = f"the mapper of INBOX for {record.topic}"  # without quotes: a fingerprint leaves out what is within
        try:
            event = _call(mapper, record)
        except (Exception, CancelledError) as error:
            raise UnreadableRecord(f"{place} failed") from error
        if event is None:
            return None
        if not isinstance(event, Event):
            raise UnreadableRecord(f"{place} returned {type(event).__name__}, which is not an Event")
        event = replace(
            event,
            id=record_reference(record) if event.id is None else event.id,
            source=record.topic if event.source is None else event.source,
            time=None if event.time is None else in_utc(event.time),
        )
        require_storable(event)
        if not self._wants(event.type, record.topic):
            return None
        event = replace(event, headers={**tracing.carried(record.headers), **event.headers})
        return with_position(event, record, json_payload(event.payload, using=self._using))


def _call(mapper: Mapper, record: ReceivedRecord) -> Any:
    """What a mapper returns, within ``HANDLER_TIMEOUT``: a process in which it runs longer is ended."""
    timeout = settings.handler_timeout
    if timeout is None:
        return mapper(record)
    place = record_reference(record)
    subject = f'mapper OUTBOX["INBOX"][{record.topic!r}] with record {place}'
    return call_within(timeout, subject, mapper, record, about={"event_id": place, "topic": record.topic, "attempt": 1})
