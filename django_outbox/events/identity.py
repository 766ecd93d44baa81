"""Identifies records of this service's own outbox, whose content is then read from the row."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.events.parsing import (
    envelope_of,
    envelope_text,
    headers_of,
    is_id,
    number_header,
    require_version,
    text_header,
)
from django_outbox.exceptions import UnreadableRecord
from django_outbox.models.lengths import EVENT_ID_LENGTH


@dataclass(frozen=True, slots=True)
class RecordIdentity:
    """What a record claims to be. None of it is trusted: the row decides.

    Attributes:
        source: the service that wrote it; None if the format does not say.
        event_id: of the event.
        event_type: of the event.
        outbox_id: id of the row, for records of an outbox.
        attempt: which publication of the row this is; None if the format does not say.
    """

    source: str | None
    event_id: str
    event_type: str
    outbox_id: int | None
    attempt: int | None


def identify(record: ReceivedRecord) -> RecordIdentity:
    """Identify a record that may be one of this service's own outbox.

    Raises:
        UnreadableRecord: it is neither a valid CloudEvent in binary mode nor a valid envelope.
    """
    if record.fault:
        raise UnreadableRecord(record.fault)
    headers = headers_of(record)
    if "ce_specversion" in headers:
        require_version(text_header(headers, "ce_specversion"))
        return RecordIdentity(
            source=text_header(headers, "ce_source"),
            event_id=text_header(headers, "ce_id"),
            event_type=text_header(headers, "ce_type"),
            outbox_id=number_header(headers, "ce_outboxid"),
            attempt=number_header(headers, "ce_outboxattempt"),
        )
    envelope, _ = envelope_of(record)
    outbox_id = envelope["outbox_id"]
    if not is_id(outbox_id):
        raise UnreadableRecord("'outbox_id' of the envelope is not a whole number in range")
    return RecordIdentity(
        source=text_header(headers, "ce_source") if "ce_source" in headers else None,
        event_id=envelope_text(envelope, "event_id"),
        event_type=envelope_text(envelope, "event_type"),
        outbox_id=outbox_id,
        attempt=number_header(headers, "ce_outboxattempt"),
    )


def record_reference(record: ReceivedRecord) -> str:
    """Return ``topic/partition/offset``, the identity of a record without an event id."""
    reference = f"{record.topic}/{record.partition}/{record.offset}"
    if len(reference) <= EVENT_ID_LENGTH:
        return reference
    digest = sha256(record.topic.encode()).hexdigest()
    return f"{digest}/{record.partition}/{record.offset}"
