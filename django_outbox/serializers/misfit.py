"""What the formats share: a value that does not fit, with its place in the payload, bytes as text, exact numbers."""

from __future__ import annotations

import base64
import binascii
import struct
from typing import Any

from django_outbox.exceptions import InvalidMessage
from django_outbox.serializers.base import kind_of


class Misfit(ValueError):
    """A value does not fit. ``path`` is where it is in the payload, the last part first."""

    def __init__(self, expected: str, value: Any = None, reason: str = "") -> None:
        super().__init__(reason or f"expected {expected}, got {kind_of(value)}")
        self.path: list[str] = []

    def as_invalid(self) -> InvalidMessage:
        where = "".join(reversed(self.path)).lstrip(".")
        return InvalidMessage(f"payload.{where}" if where else "payload", str(self))


def bytes_of_base64(text: str) -> bytes | None:
    """Return the bytes; None if other bytes would be written back, as of characters that ``base64`` skips."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data) == text.encode() else None


def keeps_digits(packed: struct.Struct, integer: int) -> bool:
    """True if a floating-point number, packed like this, represents all digits of an integer."""
    try:
        return packed.unpack(packed.pack(integer)) == (integer,)
    except (OverflowError, struct.error):
        return False
