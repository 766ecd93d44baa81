"""Reads records for the inbox: in a known wire format, or by a mapper of the project."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.conf import settings
from django_outbox.events.event import Event
from django_outbox.events.parsing import content_type_of, headers_of, in_utc, record_reference
from django_outbox.events.payloads import TOMBSTONE, RawBytes, content_of, require_valid
from django_outbox.events.reader import STRUCTURED, EventReader, deserialized, require_storable, with_position
from django_outbox.exceptions import InvalidMessage, RegistryUnavailable, UnreadableRecord
from django_outbox.handlers.timeout import call_within
from django_outbox.models.validation import json_payload
from django_outbox.observability.tracing.base import current_tracing
from django_outbox.serializers.base import LOAD_SECONDS, NotLoaded, load_all

Mapper = Callable[[ReceivedRecord], Any]


class Reader:
    """Reads records for one consumer group; the arguments are those of ``EventReader``."""

    def __init__(self, *, using: str, accepts: Callable[[str, str], bool], accepts_own: bool) -> None:
        self._using = using
        self._accepts = accepts
        self._mappers = settings.inbox
        self._events = EventReader(using=using, accepts=accepts, accepts_own=accepts_own)
        self._waits: dict[str, float] = {}  # by record, in seconds

    def uses_mapper(self, record: ReceivedRecord) -> bool:
        """True if a mapper of the project reads this record."""
        return self._mappers.get(record.topic) is not None and self._is_foreign_format(record)

    def read(self, record: ReceivedRecord) -> Event | None:
        """Return the event of a record; None if it is not accepted, or ``INBOX`` ignores its topic.

        Raises:
            UnreadableRecord: with the reason.
            NotLoaded: it needs a schema of a registry.
            RegistryUnavailable: it needs one of a registry that is away.
        """
        if record.fault or record.topic not in self._mappers or not self._is_foreign_format(record):
            return self._events.read(record)
        mapper = self._mappers[record.topic]
        try:
            return None if mapper is None else self._mapped(record, mapper)
        except InvalidMessage as error:
            raise UnreadableRecord(str(error)) from None

    def read_loading(self, record: ReceivedRecord) -> Event | None:
        """The same, but loads a schema that it needs, for a second at most; call this outside of transactions.

        Raises:
            UnreadableRecord: with the reason.
            RegistryUnavailable: the record must wait, as long as ``take_wait()`` returns.
        """
        try:
            try:
                return self.read(record)
            except NotLoaded as error:
                fault = load_all([error], LOAD_SECONDS)[error.key]
            if fault is not None and not isinstance(fault, RegistryUnavailable):
                raise UnreadableRecord("its schema cannot be loaded") from fault
            try:
                return self.read(record)
            except NotLoaded:
                raise fault or RegistryUnavailable("A schema takes long to load.", LOAD_SECONDS) from None
        except RegistryUnavailable as error:
            self._waits[record_reference(record)] = error.retry_after
            raise

    def take_wait(self, record: ReceivedRecord) -> float:
        """Return for how many seconds a record must wait for a registry, and forget that."""
        return self._waits.pop(record_reference(record), LOAD_SECONDS)

    def _is_foreign_format(self, record: ReceivedRecord) -> bool:
        headers = headers_of(record)
        return "ce_specversion" not in headers and not content_type_of(headers).startswith(STRUCTURED)

    def _mapped(self, record: ReceivedRecord, mapper: Mapper) -> Event | None:
        name = f"the mapper of INBOX for {record.topic}"  # without quotes, as a fingerprint omits quoted text
        try:
            event = _call(mapper, record)
        except (Exception, CancelledError) as error:
            raise UnreadableRecord(f"{name} failed") from error
        if event is None:
            return None
        if not isinstance(event, Event):
            raise UnreadableRecord(f"{name} returned {type(event).__name__}, which is not an Event")
        event = replace(
            event,
            id=record_reference(record) if event.id is None else event.id,
            source=record.topic if event.source is None else event.source,
            time=None if event.time is None else in_utc(event.time),
        )
        require_storable(event)
        if not self._accepts(event.type, record.topic):
            return None
        event = replace(event, headers={**current_tracing().carried(record.headers), **event.headers})
        if isinstance(event.payload, bytes):
            content_type = event.payload.content_type if isinstance(event.payload, RawBytes) else ""
            event = deserialized(event, event.payload, content_type, record.topic) or event
        require_valid(event)
        if content_of(event) is None:
            return with_position(event, record, json_payload(event.payload, using=self._using))
        return with_position(event, record, TOMBSTONE if event.payload is None else event.payload)


def _call(mapper: Mapper, record: ReceivedRecord) -> Any:
    """Call a mapper, and end the process if it runs longer than ``HANDLER_TIMEOUT``."""
    timeout = settings.handler_timeout
    if timeout is None:
        return mapper(record)
    about = {"event_id": record_reference(record), "topic": record.topic, "attempt": 1}
    subject = f'mapper OUTBOX["INBOX"][{record.topic!r}] with record {about["event_id"]}'
    return call_within(timeout, subject, mapper, record, about=about)
