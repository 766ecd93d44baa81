"""Serializers and a mapper with which messages fail before their handlers run."""

from __future__ import annotations

import json
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from django_outbox import Event
from django_outbox.brokers.base import ReceivedRecord
from django_outbox.conf import settings
from django_outbox.models import OutboxMessage
from django_outbox.serializers.base import Decoded, Serializer


class Unsendable(Serializer):
    """Lets the relay fail until a failure of the message is stored."""

    content_type = "application/json"

    def validate(self, payload: Any, event_type: str, topic: str) -> None:
        pass

    def serialize(self, payload_json: str, event_type: str, topic: str) -> bytes:
        payload = json.loads(payload_json)
        if not OutboxMessage.objects.filter(source=settings.source, payload=payload, retry_count__gt=0).exists():
            raise ImproperlyConfigured("the schema is yet to come")
        return payload_json.encode()

    def deserialize(self, data: bytes, event_type: str, topic: str) -> Decoded:
        raise NotImplementedError  # handlers get the payload of the row


class Refused(Unsendable):
    """Lets the relay give the message up."""

    def serialize(self, payload_json: str, event_type: str, topic: str) -> bytes:
        raise ValueError("it fits no schema")


def to_event(record: ReceivedRecord) -> Event | None:
    """Make an event of plain text, unless that is "nothing"."""
    text = (record.value or b"").decode()
    return None if text == "nothing" else Event(type="watched.effect", payload=text, key=text[0])
