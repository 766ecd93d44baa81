"""The wire format: what a row looks like in Kafka, and that no record, however broken, is more than unreadable."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import connection

from django_outbox import publish
from django_outbox.relay.relay import Relay
from tests.support.outbox import memory_broker
from tests.support.overrides import outbox_settings

FORMATS = ("cloudevents", "envelope")


@pytest.mark.django_db
@pytest.mark.parametrize("payload", [None, 0, "", [], {"z": 1.50, "a": ["ä", "\\u0000", {"b": None}]}])
def test_value_is_the_stored_text_byte_by_byte(payload: Any) -> None:
    publish("order.created", payload)
    broker = memory_broker()
    Relay(broker, using="default").run_once()
    with connection.cursor() as cursor:
        cursor.execute("SELECT payload FROM django_outbox_outboxmessage")
        (stored,) = cursor.fetchone()
    (record,) = broker.records("outbox")
    assert record.value == stored.encode()
    assert json.loads(record.value) == payload


@pytest.mark.django_db
def test_settings_choose_the_format() -> None:
    broker = memory_broker()
    for wire_format in FORMATS:
        with outbox_settings(WIRE_FORMAT=wire_format):
            publish("order.created", {"format": wire_format})
            Relay(broker, using="default").run_once()
    first, second = (json.loads(record.value) for record in broker.records("outbox"))
    assert first == {"format": "cloudevents"}
    assert second["payload"] == {"format": "envelope"}


# Junk
