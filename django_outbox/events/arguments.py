"""Checks the arguments of ``publish()``: each must fit its column and Kafka. Errors are ``InvalidMessage``, naming it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django_outbox.conf import LARGEST_COUNT, settings
from django_outbox.events.parsing import CONTENT_TYPE, RESERVED_PREFIX
from django_outbox.exceptions import LONGEST_DELAY, InvalidMessage
from django_outbox.models.lengths import KEY_LENGTH, TOPIC_LENGTH
from django_outbox.models.validation import require_text

_TOPIC = re.compile(r"[a-zA-Z0-9._-]+\Z")


def is_topic(name: str) -> bool:
    """True if Kafka accepts this topic name."""
    return bool(_TOPIC.match(name)) and len(name) <= TOPIC_LENGTH and name not in (".", "..")


def checked_topic(event_type: str, topic: Any) -> str:
    if topic is None:
        topic = settings.topic_of(event_type)
    name = checked_text("topic", topic, TOPIC_LENGTH)
    if not is_topic(name):
        reason = f"{name!r} is not a valid Kafka topic name; use letters, digits, '.', '_' and '-'"
        raise InvalidMessage("topic", reason)
    return name


def checked_key(key: Any) -> str:
    if isinstance(key, (int, uuid.UUID)) and not isinstance(key, bool):
        try:
            key = str(int(key) if isinstance(key, int) else key)
        except ValueError:  # Python refuses to convert an int with thousands of digits
            raise InvalidMessage("key", f"it has thousands of digits; at most {KEY_LENGTH} are allowed") from None
    if not isinstance(key, str):
        raise InvalidMessage("key", f"it must be text, an int or a UUID, not {type(key).__name__}; pass str(...)")
    return checked_text("key", key, KEY_LENGTH)


def checked_text(field: str, value: Any, length: int) -> str:
    if not isinstance(value, str):
        raise InvalidMessage(field, f"it must be text, not {type(value).__name__}")
    if len(value) > length:
        raise InvalidMessage(field, f"it has {len(value)} characters; at most {length} are allowed")
    require_text(field, value)
    return value


def _shown(value: Any) -> str:
    """A value for an error message; some cannot be converted, such as huge integers."""
    try:
        text = repr(value)
    except Exception:  # __repr__ of the caller may raise anything
        return f"this {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:100]}..."


def checked_headers(headers: Any) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        raise InvalidMessage("headers", f"they must be a dict, not {type(headers).__name__}")
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str) or not name:
            raise InvalidMessage("headers", f"the name and value of {_shown(name)} must be text")
        if name.lower().startswith(RESERVED_PREFIX) or name.lower() == CONTENT_TYPE:
            raise InvalidMessage("headers", f"{_shown(name)} is set by the outbox itself")
        require_text("headers", name)
        require_text("headers", value)
    return dict(headers)


def checked_event_id(value: Any) -> uuid.UUID:
    if isinstance(value, uuid.UUID):
        return value
    try:
        return uuid.UUID(value)
    except (ValueError, TypeError, AttributeError):
        raise InvalidMessage("event_id", f"{_shown(value)} is not a UUID") from None


def checked_delay(delay: Any) -> timedelta:
    try:
        wait = delay if isinstance(delay, timedelta) else timedelta(seconds=delay)
    except (TypeError, ValueError, OverflowError):
        wait = None
    if wait is None or isinstance(delay, bool):
        raise InvalidMessage("delay", f"{_shown(delay)} is not a timedelta or a number of seconds")
    if not timedelta(0) <= wait <= LONGEST_DELAY:
        raise InvalidMessage("delay", f"{wait} is not between 0 and {LONGEST_DELAY.days} days")
    return wait


def checked_max_retry(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_COUNT:
        raise InvalidMessage("max_retry", f"{_shown(value)} is not an integer from 0 to {LARGEST_COUNT}")
    return int(value)
