"""Payloads that are not JSON: bytes, and the missing value of a tombstone.

``content_type`` of a row decides which it is: None for JSON, which is in ``payload``; ``""`` for a tombstone; otherwise the
type of the bytes in ``raw_value``.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, NamedTuple, Protocol, Self

from django_outbox.events.event import Event
from django_outbox.exceptions import InvalidMessage

_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+[ \t]*(;[ -~]*)?\Z", re.ASCII)


class Tombstone(Enum):
    """The class of ``TOMBSTONE``, which stays the same object when it is copied or pickled."""

    TOMBSTONE = "tombstone"

    def __repr__(self) -> str:
        return "TOMBSTONE"


TOMBSTONE = Tombstone.TOMBSTONE
"""The payload to publish for a record without a value, which deletes earlier records of its key from a compacted topic."""


class RawBytes(bytes):
    """A payload that is sent as it is, not as JSON.

    Args:
        data: bytes, a bytearray or a memoryview.
        content_type: its media type, such as ``"image/png"``, sent as the header ``content-type``.

    Raises:
        TypeError: ``data`` is something else.
    """

    content_type: str

    def __new__(cls, data: bytes | bytearray | memoryview, content_type: str = "application/octet-stream") -> Self:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"RawBytes takes bytes, not {type(data).__name__}.")
        raw = super().__new__(cls, data)
        raw.content_type = content_type
        return raw

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """For handlers that are annotated with it."""
        from pydantic_core import core_schema

        return core_schema.is_instance_schema(cls)


class Content(NamedTuple):
    """The columns of a row that hold its payload."""

    payload: Any
    content_type: str | None = None
    raw_value: bytes | None = None


class Row(Protocol):
    """A row of outbox or inbox."""

    @property
    def content_type(self) -> str | None: ...
    @property
    def raw_value(self) -> bytes | memoryview | None: ...


def has_tombstone(event: Event) -> bool:
    """True if the payload of an event is a tombstone, either to publish or as handlers get it."""
    return event.payload is TOMBSTONE or (event.is_tombstone and event.payload is None)


def content_of(event: Event) -> Content | None:
    """The columns for a payload that is not JSON; None for JSON."""
    payload = event.payload
    if has_tombstone(event):
        return Content(None, "")
    if isinstance(payload, RawBytes):
        return Content(None, payload.content_type, bytes(payload))
    return None


def require_valid(event: Event) -> None:
    """Check a payload of the project that is not JSON.

    Raises:
        InvalidMessage: it is bytes without a content type, or the content type is not valid.
    """
    payload = event.payload
    if not isinstance(payload, (bytes, bytearray, memoryview)):
        return
    if not isinstance(payload, RawBytes):
        raise InvalidMessage(
            "payload", "it is bytes, which JSON cannot represent; pass RawBytes(data, content_type=...)"
        )
    content_type: Any = payload.content_type
    from django_outbox.models.lengths import CONTENT_TYPE_LENGTH  # handlers are imported before models may be

    if not isinstance(content_type, str) or len(content_type) > CONTENT_TYPE_LENGTH or not _TYPE.match(content_type):
        raise InvalidMessage(
            "payload", f"its content type {content_type!r:.100} is not valid; pass one such as image/png"
        )


def is_json(row: Row) -> bool:
    return row.content_type is None


def is_tombstone(row: Row) -> bool:
    return row.content_type == ""


def has_bytes(row: Row) -> bool:
    return bool(row.content_type)


def raw_bytes(row: Row) -> RawBytes:
    """The payload of a row that has bytes."""
    return RawBytes(row.raw_value, row.content_type)  # type: ignore[arg-type]  # both are set
