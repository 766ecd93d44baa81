"""Transactional outbox for Django and Kafka: the names that applications import.

PYTEST_DONT_REWRITE: otherwise pytest warns if something has imported this package before pytest starts.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django_outbox.events.declared import event_type
    from django_outbox.events.event import Event
    from django_outbox.events.payloads import TOMBSTONE, RawBytes
    from django_outbox.exceptions import InvalidMessage, OutboxError, Reject, Retry, TransactionRequired
    from django_outbox.handlers.registry import handler
    from django_outbox.publishing import apublish, apublish_many, publish, publish_many

__version__ = "0.1.0"

__all__ = [
    "TOMBSTONE",
    "Event",
    "InvalidMessage",
    "OutboxError",
    "RawBytes",
    "Reject",
    "Retry",
    "TransactionRequired",
    "apublish",
    "apublish_many",
    "event_type",
    "handler",
    "publish",
    "publish_many",
]

# Imported at first use: Django reads this package before models may be imported. The others are exceptions.
_MODULES = {
    "TOMBSTONE": "events.payloads",
    "Event": "events.event",
    "RawBytes": "events.payloads",
    "apublish": "publishing",
    "apublish_many": "publishing",
    "event_type": "events.declared",
    "handler": "handlers.registry",
    "publish": "publishing",
    "publish_many": "publishing",
}


if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'exceptions')}"), name)
