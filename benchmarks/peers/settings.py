"""Django settings of a package that is measured: its defaults, and what its README recommends."""

from __future__ import annotations

import environ

env = environ.Env()

APPS = {
    "ours": "django_outbox",
    "jaiminho": "jaiminho",
    "pattern": "django_outbox_pattern",
    "reliable": "reliable_outbox",
}

SECRET_KEY = "for benchmarks only"
DEBUG = False
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [APPS[env.str("PEER")]]
DATABASES = {"default": {**env.db_url("DATABASE_URL"), "CONN_MAX_AGE": None}}

KAFKA_URL = env.str("KAFKA_URL")
KAFKA_ADDRESS = KAFKA_URL.partition("://")[2]
TOPIC = env.str("PEER_TOPIC")

OUTBOX = {
    "BROKER": {"BACKEND": env.str("PEER_BACKEND", default=""), "URL": KAFKA_URL},
    "SOURCE": "benchmarks",
    "TOPIC": TOPIC,
}

# The strategy that writes each event in the transaction; the default writes an event only after its function has failed.
JAIMINHO_CONFIG = {"PUBLISH_STRATEGY": "keep-order", "DELETE_AFTER_SEND": True}

DJANGO_OUTBOX_PATTERN = {
    "DEFAULT_STOMP_HOST_AND_PORTS": [("127.0.0.1", env.int("PEER_STOMP_PORT", default=0))],
    "DEFAULT_PRODUCER_WAITING_TIME": 0,  # the pause after a batch, which is not measured
}

RELIABLE_OUTBOX = {
    "DESTINATIONS": {
        "default": {
            "BACKEND": "reliable_outbox.destinations.kafka.KafkaDestination",
            "OPTIONS": {"topic": TOPIC, "config": {"bootstrap.servers": KAFKA_ADDRESS}},
        },
    },
}
