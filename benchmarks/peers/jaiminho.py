"""django-jaiminho: its relay calls a function for each event, here one that sends a record and waits for the broker."""

from __future__ import annotations

import json
from typing import Any

from confluent_kafka import Producer
from django.conf import settings
from django.core.management import call_command
from django.db.models import Q
from jaiminho.models import Event
from jaiminho.send import save_to_outbox

from benchmarks.payloads import key, payload

MODEL = Event
SENT = Q(sent_at__isnull=False)  # with DELETE_AFTER_SEND, no row is left either
SEND_SECONDS = 30.0

producer = Producer(
    {"bootstrap.servers": settings.KAFKA_ADDRESS, "acks": "all", "enable.idempotence": True, "linger.ms": 0}
)


@save_to_outbox
def send(body: dict[str, Any], record_key: str) -> None:
    errors: list[Any] = []

    def delivered(error: Any, message: Any) -> None:
        if error is not None:
            errors.append(error)

    headers = [("number", str(body["order_id"]).encode())]
    producer.produce(
        settings.TOPIC, json.dumps(body).encode(), record_key.encode(), headers=headers, on_delivery=delivered
    )
    if producer.flush(SEND_SECONDS) or errors:
        raise RuntimeError(f"the broker did not accept the record: {errors}")


def write(number: int) -> None:
    send(payload(number), key(number))


def relay() -> None:
    call_command("events_relay")
