"""The longest text that each column takes, in characters."""

from __future__ import annotations

ERROR_LENGTH = 2000
KEY_LENGTH = 255
TOPIC_LENGTH = 249  # Kafka's own limit
EVENT_ID_LENGTH = 255
TYPE_LENGTH = 255
VERSION_LENGTH = 32
FINGERPRINT_LENGTH = 200
WORKER_LENGTH = 255
GROUP_LENGTH = 249
TROUBLE_LENGTH = 1000
TOPICS_LENGTH = 1000
