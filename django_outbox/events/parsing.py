"""Parses received records: what they claim to be, and their parts. Errors are ``UnreadableRecord`` with a reason."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple, NoReturn

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.exceptions import UnreadableRecord
from django_outbox.models import validation
from django_outbox.models.lengths import EVENT_ID_LENGTH

RESERVED_PREFIX = "ce_"
CONTENT_TYPE = "content-type"
MAX_ID = 2**63 - 1
_MOST_DIGITS = len(str(MAX_ID))

Headers = Mapping[str, bytes]

_ENVELOPE = ("outbox_id", "event_id", "event_type")


class RecordIdentity(NamedTuple):
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
    position = f"/{record.partition}/{record.offset}"
    fits = len(record.topic) + len(position) <= EVENT_ID_LENGTH
    return (record.topic if fits else sha256(record.topic.encode()).hexdigest()) + position


def headers_of(record: ReceivedRecord) -> Headers:
    """Return headers by name. If a name occurs more than once, the first value counts."""
    return dict(reversed(record.headers))


def shown_type(record: ReceivedRecord) -> str:
    """Return the event type in the headers of a record; empty if its format does not show it there."""
    return validation.as_text(headers_of(record).get("ce_type") or b"")


def content_type_of(headers: Mapping[str, bytes | None]) -> str:
    """Return the media type, without parameters."""
    return media_type(validation.as_text(headers.get(CONTENT_TYPE) or b""))


def media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def is_json_type(media_type: str) -> bool:
    """True for JSON, and if the type is not given."""
    return not media_type or media_type.endswith(("/json", "+json"))


def require_version(version: str) -> None:
    if not version.startswith("1."):
        raise UnreadableRecord(f"CloudEvents version {version[:20]!r} is not supported")


def text_header(headers: Headers, name: str) -> str:
    try:
        return headers[name].decode()
    except KeyError:
        raise UnreadableRecord(f"header {name} is missing") from None
    except (UnicodeDecodeError, AttributeError):
        raise UnreadableRecord(f"its header {name} is not UTF-8 text") from None


def number_header(headers: Headers, name: str) -> int | None:
    if name not in headers:
        return None
    digits = headers[name] or b""
    number = int(digits) if digits.isdigit() and len(digits) <= _MOST_DIGITS else 0
    if not 0 < number <= MAX_ID:
        raise UnreadableRecord(f"header {name} is not a whole number in range")
    return number


def application_headers(headers: Headers) -> dict[str, str]:
    """Return the headers that are not attributes of a CloudEvent."""
    others = {name: value for name, value in headers.items() if not name.startswith(RESERVED_PREFIX)}
    others.pop(CONTENT_TYPE, None)
    return validation.headers_as_text(others)


def key_of(record: ReceivedRecord) -> str:
    try:
        return (record.key or b"").decode()
    except UnicodeDecodeError:
        raise UnreadableRecord("its key is not UTF-8 text") from None


def is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_ID


def envelope_of(record: ReceivedRecord) -> tuple[dict[str, Any], str]:
    """Return the members of an envelope and its text."""
    hint = f'no mapper is set for its topic, as in OUTBOX["INBOX"] = {{{record.topic!r}: ...}}'
    if record.value is None:
        raise UnreadableRecord(f"it is a tombstone without the headers of a CloudEvent, and {hint}")
    try:
        envelope, text = parse_json("value", record.value)
    except UnreadableRecord as error:
        raise UnreadableRecord(f"it is not a CloudEvent, and {error}; {hint}") from None
    if not (isinstance(envelope, dict) and all(name in envelope for name in _ENVELOPE)):
        raise UnreadableRecord(f"it is neither a CloudEvent nor an envelope, and {hint}")
    return envelope, text


def envelope_text(envelope: Mapping[str, Any], name: str) -> str:
    value = envelope[name]
    if not isinstance(value, str) or not value:
        raise UnreadableRecord(f"{name!r} of the envelope must be text that is not empty")
    return value


def parse_json(part: str, data: bytes | None) -> tuple[Any, str]:
    """Return the value of JSON and its text. ``part`` names it in errors."""
    try:
        text = (data or b"").decode()
    except UnicodeDecodeError:
        raise UnreadableRecord(f"its {part} is not UTF-8 text") from None
    try:
        return json.loads(text, parse_constant=_not_a_number, parse_float=_finite), text
    except (ValueError, RecursionError) as error:
        raise UnreadableRecord(f"its {part} is not JSON that can be read: {str(error)[:200]}") from None


def _not_a_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large a number")
    return number


def in_utc(time: datetime) -> datetime:
    """Return a time in UTC. A time without a zone is UTC already."""
    try:
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (OverflowError, AttributeError, TypeError):
        raise UnreadableRecord(f"its time cannot be stored: {str(time)[:60]!r}") from None


def parse_time(text: str) -> datetime:
    try:
        return in_utc(datetime.fromisoformat(text))
    except ValueError:
        raise UnreadableRecord(f"the attribute 'time' of the CloudEvent is not a time: {text[:60]!r}") from None
