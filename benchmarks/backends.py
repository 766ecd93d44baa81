"""The brokers that are compared and how their consumers are set."""

from __future__ import annotations

from typing import Any

CONFLUENT = "django_outbox.brokers.confluent.ConfluentBroker"
KAFKA_PYTHON = "django_outbox.brokers.kafka.KafkaBroker"

PREPARED_STATEMENTS = {"server_side_binding": True, "prepare_threshold": 5}
"""``OPTIONS`` that docs/speed.rst advises where no pooler is between."""

# A group's first member waits for others, on some brokers for half of these times. And Tansu answers a reader that
# waits for records only after a part of the time that it may wait, not when they come, as Apache Kafka does.
FETCH_WAIT_MS = 5
CONSUMER_OPTIONS: dict[str, dict[str, Any]] = {
    CONFLUENT: {"session.timeout.ms": 6000, "heartbeat.interval.ms": 500, "fetch.wait.max.ms": FETCH_WAIT_MS},
    KAFKA_PYTHON: {"session_timeout_ms": 6000, "heartbeat_interval_ms": 500, "fetch_max_wait_ms": FETCH_WAIT_MS},
}
