"""Validation of text and JSON: every supported database must be able to store them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import connections

from django_outbox.exceptions import InvalidMessage, text_of

# Nested lists and dicts. MySQL stores no more, and Python's own limit depends on the depth of the call stack.
_MAX_DEPTH = 99
_MAX_DEPTH_ON_MARIADB = 31
_MAX_BYTES_PER_CHARACTER = 12
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # not a backslash that is escaped, followed by "u0000"


def require_text(field: str, text: str) -> None:
    """Raise ``InvalidMessage`` for text that some database cannot store, before it breaks the transaction."""
    if "\0" in text:
        raise InvalidMessage(field, "it contains a NUL character, which PostgreSQL cannot store")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidMessage(field, "it contains a lone surrogate, which is not valid Unicode") from None


def as_text(data: bytes) -> str:
    """Bytes as text that every database can store; invalid UTF-8 is replaced."""
    return data.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")


def clean_text(text: str) -> str:
    """Text that every database can store: NUL and lone surrogates are replaced."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def headers_as_text(headers: Mapping[str, bytes | None]) -> dict[str, str]:
    """Kafka headers as text by name; headers without a value are dropped."""
    return {
        as_text(name.encode(errors="replace")): as_text(value) for name, value in headers.items() if value is not None
    }


def json_payload(payload: Any, *, using: str) -> Any:
    """The payload as JSON returns it: lists in place of tuples, text in place of dates and numeric keys.

    Args:
        payload: what JSON can represent; also dates, times, ``timedelta``, ``Decimal``, ``UUID`` and lazy texts, as
            ``DjangoJSONEncoder`` writes them, dataclasses and pydantic models.

    Raises:
        InvalidMessage: JSON cannot represent the payload, or the database cannot store it.
    """
    return payload_and_json(payload, using=using)[0]


def _as_json(value: Any) -> Any:
    """What ``json`` itself cannot write: dataclasses, pydantic models, and the values that Django's encoder knows."""
    try:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        if hasattr(type(value), "model_dump"):
            # By alias, as pydantic reads it again in a handler.
            return value.model_dump(mode="json", by_alias=True)
        return DjangoJSONEncoder().default(value)
    except Exception as error:  # a field may not be set, and model_dump() may be the project's own
        raise TypeError(text_of(error)) from error


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_as_json)


def payload_and_json(payload: Any, *, using: str, limit: int | None = None) -> tuple[Any, str]:
    """The payload as JSON returns it, and its JSON, not escaped.

    Args:
        payload: see ``json_payload``.
        limit: maximum size in bytes as sent to the broker; None for no limit.

    Raises:
        InvalidMessage: as of ``json_payload``, or the payload is too large.
    """
    try:
        text = _ENCODER.encode(payload)
        payload = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMessage("payload", f"JSON cannot represent it: {text_of(error)}") from error
    require_depth(payload, text, using=using)
    require_json(text)
    if limit is not None and len(text) * _MAX_BYTES_PER_CHARACTER > limit:
        size = _stored_bytes(payload, text, using)
        if size > limit:
            raise InvalidMessage("payload", f"its JSON has {size} bytes; the limit is {limit} (MAX_PAYLOAD_BYTES)")
    return payload, text


def _stored_bytes(payload: Any, text: str, using: str) -> int:
    """SQLite and MariaDB store the text that Django writes, with up to twelve bytes per character."""
    connection = connections[using]
    if connection.vendor == "sqlite" or getattr(connection, "mysql_is_mariadb", False):
        return len(json.dumps(payload))
    return len(text.encode())


def require_depth(payload: Any, text: str, *, using: str) -> None:
    """Raise ``InvalidMessage`` if a payload is nested too deeply; ``text`` is its JSON."""
    on_mariadb = getattr(connections[using], "mysql_is_mariadb", False)
    limit = _MAX_DEPTH_ON_MARIADB if on_mariadb else _MAX_DEPTH
    if text.count("[") + text.count("{") > limit and _depth(payload) > limit:
        where = " on MariaDB" if on_mariadb else ""
        raise InvalidMessage(
            "payload", f"it is nested more than {limit} levels deep; the database allows no more{where}"
        )


def require_json(text: str) -> None:
    """Raise ``InvalidMessage`` if JSON, not escaped, contains text that cannot be stored."""
    has_nul = "\\u0000" in text and _ESCAPED_NUL.search(text)
    require_text("payload", "\0" if has_nul else text)


def _depth(payload: Any) -> int:
    """The depth of nested lists and dicts."""
    depth = 0
    level = [payload]
    while level := [value for value in level if isinstance(value, (list, dict))]:
        depth += 1
        level = [item for value in level for item in (value.values() if isinstance(value, dict) else value)]
    return depth
