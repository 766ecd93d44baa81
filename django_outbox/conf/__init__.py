"""The settings: ``OUTBOX`` in Django's settings, read on each use, never at import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any, Literal, cast

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured

from django_outbox.conf.values import (
    BROKER_KEYS,
    DEFAULT_REDACT,
    DEFAULT_RETENTION,
    KEYS,
    LARGEST_CONCURRENCY,
    LARGEST_COUNT,
    LARGEST_PAYLOAD,
    LONGEST_RETENTION,
    LONGEST_WAIT,
    SOURCE_LENGTH,
    TASK_PREFIX,
    BrokerSettings,
    CircuitBreaker,
    DebeziumSettings,
    checked_serializers,
    import_function,
    invalid,
    tracing_class,
)

__all__ = [
    "DEFAULT_REDACT",
    "LARGEST_CONCURRENCY",
    "LARGEST_COUNT",
    "LONGEST_RETENTION",
    "LONGEST_WAIT",
    "SOURCE_LENGTH",
    "TASK_PREFIX",
    "BrokerSettings",
    "OutboxSettings",
    "settings",
]


class OutboxSettings:
    """A typed property for each setting, named like its key in lower case.

    Each raises ``ImproperlyConfigured`` if the value is invalid; the error names the key and the valid values.
    """

    KEYS = KEYS
    BROKER_KEYS = BROKER_KEYS

    @property
    def raw(self) -> Mapping[str, Any]:
        """The ``OUTBOX`` dict as the project wrote it."""
        value = getattr(django_settings, "OUTBOX", {})
        if type(value) is not dict and not isinstance(value, Mapping):  # the second takes long, for each setting
            raise ImproperlyConfigured(f"OUTBOX must be a dict, not {type(value).__name__}.")
        return value

    @property
    def broker(self) -> BrokerSettings:
        return BrokerSettings.of(self._get("BROKER", {}, Mapping, "a dict"))

    @property
    def source(self) -> str:
        source: str = self._get("SOURCE", "", str, "a string")
        if not source:
            raise ImproperlyConfigured(
                'OUTBOX["SOURCE"] is missing: name this service, for example OUTBOX = {"SOURCE": "shop"}.'
            )
        if len(source) > SOURCE_LENGTH:
            raise ImproperlyConfigured(
                f'OUTBOX["SOURCE"] must have at most {SOURCE_LENGTH} characters, got {len(source)}.'
            )
        return source

    @property
    def topic(self) -> str:
        return self._text("TOPIC", "outbox")

    @property
    def routes(self) -> Mapping[str, str]:
        routes: Mapping[str, str] = self._get("ROUTES", {}, Mapping, "a dict from event type patterns to topics")
        for pattern, topic in routes.items():
            if not isinstance(pattern, str) or not isinstance(topic, str) or not topic:
                raise invalid("ROUTES", routes, "a dict from event type patterns to topics")
        return routes

    @property
    def task_topics(self) -> Mapping[str, str]:
        """By queue, the topics of tasks of Django's Tasks framework."""
        expected = "a dict from queues to topics"
        topics: Mapping[str, str] = self._get("TASK_TOPICS", {}, Mapping, expected)
        if not all(isinstance(each, str) and each for pair in topics.items() for each in pair):
            raise invalid("TASK_TOPICS", topics, expected)
        return topics

    def topic_of(self, event_type: str) -> str:
        """The topic of an event type: the first match in ``ROUTES``, else ``TOPIC``."""
        routes = self.routes.items()
        return next((topic for pattern, topic in routes if fnmatchcase(event_type, pattern)), None) or self.topic

    @property
    def topics(self) -> frozenset[str]:
        """The topics of ``TOPIC``, ``ROUTES`` and ``TASK_TOPICS``."""
        return frozenset({self.topic, *self.routes.values(), *self.task_topics.values()})

    @property
    def consumer_group(self) -> str:
        return self._text("CONSUMER_GROUP", "") if "CONSUMER_GROUP" in self.raw else self.source

    @property
    def wire_format(self) -> Literal["cloudevents", "envelope"]:
        return cast(Literal["cloudevents", "envelope"], self._choice("WIRE_FORMAT", "cloudevents", "envelope"))

    @property
    def publisher(self) -> Literal["relay", "debezium"]:
        return cast(Literal["relay", "debezium"], self._choice("PUBLISHER", "relay", "debezium"))

    @property
    def debezium(self) -> DebeziumSettings:
        """The replication slot and the publication of Debezium's connector."""
        return DebeziumSettings.of(self.raw.get("DEBEZIUM", {}), self.source)

    @property
    def serializers(self) -> Mapping[str, Mapping[str, Any]]:
        """By event type pattern, the ``CLASS`` and ``OPTIONS`` of a serializer. The options may contain secrets."""
        return checked_serializers(self.raw.get("SERIALIZERS", {}))

    @property
    def max_retry(self) -> int:
        return self._count("MAX_RETRY", 20, least=0)

    @property
    def max_deliveries(self) -> int:
        return self._count("MAX_DELIVERIES", 5)

    @property
    def handler_timeout(self) -> float | None:
        """Seconds after which a running handler ends its process; None: never."""
        if self.raw.get("HANDLER_TIMEOUT") is None:
            return None
        return self._seconds("HANDLER_TIMEOUT", 0, or_else=" (or None)")

    @property
    def concurrency(self) -> int:
        return self._count("CONCURRENCY", 1, most=LARGEST_CONCURRENCY)

    @property
    def circuit_breaker(self) -> CircuitBreaker | None:
        """When a handler that keeps failing is paused; None: never."""
        return CircuitBreaker.of(self.raw.get("CIRCUIT_BREAKER"))

    @property
    def ordering(self) -> Literal["key", "none"]:
        return cast(Literal["key", "none"], self._choice("ORDERING", "key", "none"))

    @property
    def on_dead(self) -> Literal["continue", "hold"]:
        return cast(Literal["continue", "hold"], self._choice("ON_DEAD", "continue", "hold"))

    @property
    def unknown_event(self) -> Literal["ignore", "dead"]:
        return cast(Literal["ignore", "dead"], self._choice("UNKNOWN_EVENT", "ignore", "dead"))

    @property
    def event_types(self) -> Literal["optional", "required"]:
        return cast(Literal["optional", "required"], self._choice("EVENT_TYPES", "optional", "required"))

    @property
    def require_transaction(self) -> bool:
        return bool(self._get("REQUIRE_TRANSACTION", True, bool, "True or False"))

    @property
    def relay_batch_size(self) -> int:
        return self._count("RELAY_BATCH_SIZE", 500)

    @property
    def poll_interval(self) -> float:
        """Seconds between two polls when no message is due."""
        return self._seconds("POLL_INTERVAL", 0.2)

    @property
    def publish_timeout(self) -> float:
        """Seconds within which the broker must acknowledge a batch."""
        return self._seconds("PUBLISH_TIMEOUT", 15)

    @property
    def dead_letter_topic(self) -> str | None:
        """The topic for copies of dead messages; None: no copies."""
        return None if self.raw.get("DEAD_LETTER_TOPIC") is None else self._text("DEAD_LETTER_TOPIC", "")

    @property
    def written_topics(self) -> frozenset[str]:
        """All topics that the settings let the relay write to."""
        return self.topics | ({self.dead_letter_topic} if self.dead_letter_topic else set())

    @property
    def notify(self) -> bool:
        return bool(self._get("NOTIFY", False, bool, "True or False"))

    @property
    def retention(self) -> dict[str, timedelta | None]:
        """How long messages are kept after their last change, by status; None keeps them forever.

        "inbox" is for consumed messages of the inbox, "dead" for dead messages of outbox and inbox.
        """
        expected = 'a dict from "consumed", "published", "dead" and "inbox" to a timedelta or None (keep forever)'
        given = self._get("RETENTION", {}, Mapping, expected)
        for status, age in given.items():
            if status not in DEFAULT_RETENTION or not (age is None or isinstance(age, timedelta)):
                raise invalid("RETENTION", given, expected)
            if age is not None and not timedelta(0) <= age <= LONGEST_RETENTION:
                raise invalid("RETENTION", age, "timedeltas between 0 and 100 years, or None")
        return {**DEFAULT_RETENTION, **given}

    @property
    def purge(self) -> bool:
        """Whether relays delete old messages in the background."""
        return bool(self._get("PURGE", True, bool, "True or False"))

    @property
    def inbox(self) -> dict[str, Callable[[Any], Any] | None]:
        """By topic, the function that maps records that are not CloudEvents to events; None ignores them."""
        expected = "a dict from topics to functions that map records to events, their dotted paths, or None"
        given = self._get("INBOX", {}, Mapping, expected)
        mappers: dict[str, Callable[[Any], Any] | None] = {}
        for topic, mapper in given.items():
            if not isinstance(topic, str) or not (mapper is None or isinstance(mapper, str) or callable(mapper)):
                raise invalid("INBOX", given, expected)
            mappers[topic] = import_function(f'INBOX"]["{topic}', mapper) if isinstance(mapper, str) else mapper
        return mappers

    @property
    def redact(self) -> tuple[str, ...]:
        """Names of secret payload values and headers, which the admin hides without a permission."""
        names = self.raw.get("REDACT", DEFAULT_REDACT)
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name for name in names):
            raise invalid("REDACT", names, "a list of names, such as ['password', 'token']")
        return tuple(names)

    @property
    def tracing(self) -> Callable[..., Any] | None:
        """The tracing class; None: no traces.

        By default (``"TRACING": None``), OpenTelemetry is used if the project has imported it.
        """
        return tracing_class(self.raw.get("TRACING"))

    @property
    def max_payload_bytes(self) -> int | None:
        """The maximum size of a payload, as JSON or bytes; None: the limit of the broker's client."""
        if self.raw.get("MAX_PAYLOAD_BYTES") is None:
            return None
        return self._count("MAX_PAYLOAD_BYTES", 0, most=LARGEST_PAYLOAD)

    def _get(self, key: str, default: Any, kind: type, expected: str) -> Any:
        value = self.raw.get(key, default)
        if not isinstance(value, kind):
            raise invalid(key, value, expected, secret=key == "BROKER")
        return value

    def _text(self, key: str, default: str) -> str:
        value = self._get(key, default, str, "a string")
        if not value:
            raise invalid(key, value, "a non-empty string")
        return str(value)

    def _choice(self, key: str, *choices: str) -> object:
        value = self.raw.get(key, choices[0])
        if value not in choices:
            raise invalid(key, value, " or ".join(f'"{choice}"' for choice in choices))
        return value

    def _count(self, key: str, default: int, *, least: int = 1, most: int = LARGEST_COUNT) -> int:
        value = self.raw.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise invalid(key, value, f"a whole number from {least} to {most}")
        return int(value)  # not an IntEnum, whose text is its name

    def _seconds(self, key: str, default: float, *, or_else: str = "") -> float:
        value = self.raw.get(key, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise invalid(key, value, f"a number of seconds{or_else}")
        if not 0 < value <= LONGEST_WAIT.total_seconds():
            raise invalid(key, value, f"a number of seconds above 0, at most a day{or_else}")
        return float(value)


settings = OutboxSettings()
