"""The client libraries that long runs choose from."""

from __future__ import annotations

BACKENDS = {
    "kafka": "django_outbox.brokers.kafka.KafkaBroker",
    "confluent": "django_outbox.brokers.confluent.ConfluentBroker",
}
CLIENTS = {"kafka": "kafka-python", "confluent": "confluent-kafka"}
"""Their names, by the same keys."""
