"""How large payloads may be, as far as the settings tell."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils.module_loading import import_string

from django_outbox.brokers import limits
from django_outbox.brokers.confluent import ConfluentBroker
from django_outbox.brokers.kafka import KafkaBroker
from django_outbox.brokers.limits import largest_payload
from django_outbox.brokers.memory import MemoryBroker
from tests.support.overrides import outbox_settings

KAFKA = "django_outbox.brokers.kafka.KafkaBroker"
CONFLUENT = "django_outbox.brokers.confluent.ConfluentBroker"
MEMORY = "django_outbox.brokers.memory.MemoryBroker"


def limit_of(**broker: Any) -> int | None:
    with outbox_settings(BROKER=broker):
        return largest_payload()


def test_known_backends_are_those_of_this_package() -> None:
    assert {import_string(backend) for backend in limits.BACKENDS} == {KafkaBroker, ConfluentBroker, MemoryBroker}


@pytest.mark.parametrize(
    ("backend", "options", "limit"),
    [
        (KAFKA, {}, 1_048_576),
        (CONFLUENT, {}, 1_048_576),
        (MEMORY, {"URL": "memory://"}, 1_048_576),
        (KAFKA, {"OPTIONS": {"max_request_size": 200_000}}, 200_000),
        (KAFKA, {"OPTIONS": {"max_request_size": 1}, "PRODUCER_OPTIONS": {"max_request_size": 200_000}}, 200_000),
        (KAFKA, {"URL": "kafka://host?max_request_size=200000"}, 200_000),
        (KAFKA, {"URL": "kafka://host?max_request_size=1", "OPTIONS": {"max_request_size": 200_000}}, 200_000),
        (CONFLUENT, {"PRODUCER_OPTIONS": {"message.max.bytes": 200_000}}, 200_000),
        (CONFLUENT, {"OPTIONS": {"message.max.bytes": "200000"}}, 200_000),
        (CONFLUENT, {"URL": "kafka://host?max_request_size=200000"}, 200_000),
        (CONFLUENT, {"URL": "kafka://host?message_max_bytes=200000"}, 200_000),
        ("shop.brokers.OwnBroker", {"OPTIONS": {"max_request_size": 200_000}}, 200_000),
    ],
)
def test_limit_follows_the_client_s_configuration(backend: str, options: dict[str, Any], limit: int) -> None:
    assert limit_of(BACKEND=backend, **options) == limit - limits.HEADROOM


def test_a_small_limit_leaves_room_for_half_of_it() -> None:
    assert limit_of(PRODUCER_OPTIONS={"max_request_size": 10_000}) == 5_000


@pytest.mark.parametrize(
    "broker",
    [
        {"BACKEND": "shop.brokers.OwnBroker"},
        {"PRODUCER_OPTIONS": {"max_request_size": "many"}},
        {"PRODUCER_OPTIONS": {"max_request_size": None}},
        {"PRODUCER_OPTIONS": {"max_request_size": float("inf")}},
        {"URL": "kafka://host:0?max_request_size=200000"},
        {"URL": ""},
        {"OPTIONS": 7},
    ],
)
def test_wrong_or_unknown_settings_of_the_broker_do_not_keep_anybody_from_publishing(broker: dict[str, Any]) -> None:
    assert limit_of(**broker) is None


def test_setting_comes_first() -> None:
    with outbox_settings(MAX_PAYLOAD_BYTES=7, BROKER={"PRODUCER_OPTIONS": {"max_request_size": 200_000}}):
        assert largest_payload() == 7
