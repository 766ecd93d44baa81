"""Defaults, limits and errors of the settings."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import import_module
from typing import Any, cast

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from django_outbox.exceptions import text_of

KEYS = (
    "BROKER",
    "SOURCE",
    "TOPIC",
    "ROUTES",
    "TASK_TOPICS",
    "CONSUMER_GROUP",
    "WIRE_FORMAT",
    "PUBLISHER",
    "DEBEZIUM",
    "SERIALIZERS",
    "EVENT_TYPES",
    "MAX_RETRY",
    "MAX_DELIVERIES",
    "HANDLER_TIMEOUT",
    "CONCURRENCY",
    "CIRCUIT_BREAKER",
    "ORDERING",
    "ON_DEAD",
    "UNKNOWN_EVENT",
    "REQUIRE_TRANSACTION",
    "RELAY_BATCH_SIZE",
    "POLL_INTERVAL",
    "PUBLISH_TIMEOUT",
    "NOTIFY",
    "DEAD_LETTER_TOPIC",
    "RETENTION",
    "PURGE",
    "INBOX",
    "REDACT",
    "TRACING",
    "MAX_PAYLOAD_BYTES",
)
BROKER_KEYS = ("BACKEND", "URL", "OPTIONS", "PRODUCER_OPTIONS", "CONSUMER_OPTIONS")
DEFAULT_BACKEND = "django_outbox.brokers.kafka.KafkaBroker"
DEFAULT_URL = "kafka://localhost:9092"
DEFAULT_RETENTION: dict[str, timedelta | None] = {
    "consumed": timedelta(days=7),
    "published": timedelta(days=7),
    "dead": None,
    "inbox": timedelta(days=7),
}
DEFAULT_REDACT = (
    "password",
    "passwd",
    "passphrase",
    "token",
    "secret",
    "authorization",
    "cookie",
    "credential",
    "api_key",
    "private_key",
    "card",
    "cvc",
    "cvv",
    "iban",
)
OPENTELEMETRY = "django_outbox.observability.tracing.opentelemetry.OpenTelemetryTracing"
LARGEST_COUNT = 32767
LARGEST_CONCURRENCY = 1000
LARGEST_PAYLOAD = 2**31 - 1
SOURCE_LENGTH = 255
TASK_PREFIX = "task:"
"""Begins the event type of a task of Django's Tasks framework; the path of its function follows."""
LONGEST_WAIT = timedelta(days=1)
LONGEST_RETENTION = timedelta(days=36500)
SHOWN_LENGTH = 500
_DOTTED_PATH = re.compile(r"[\w.]+\Z")
_SLOT = re.compile(r"[a-z0-9_]{1,63}\Z")


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """The broker and its address. The URL may contain a password and is never shown."""

    backend: str = DEFAULT_BACKEND
    url: str = field(default=DEFAULT_URL, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    producer_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    consumer_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> BrokerSettings:
        """The value of ``BROKER``.

        Raises:
            ImproperlyConfigured: it is invalid.
        """
        values: dict[str, Any] = {}
        for key in ("BACKEND", "URL"):
            value = given.get(key, DEFAULT_BACKEND if key == "BACKEND" else DEFAULT_URL)
            if not isinstance(value, str) or not value:
                raise invalid(f'BROKER"]["{key}', value, "a non-empty string", secret=True)
            values[key.lower()] = value
        if not _DOTTED_PATH.match(values["backend"]):
            # The value is not shown, as it may be a URL with a password.
            raise ImproperlyConfigured(
                f'OUTBOX["BROKER"]["BACKEND"] must be the dotted path of a class, such as {DEFAULT_BACKEND}.'
            )
        for key in ("OPTIONS", "PRODUCER_OPTIONS", "CONSUMER_OPTIONS"):
            value = given.get(key, {})
            if not isinstance(value, Mapping):
                raise invalid(f'BROKER"]["{key}', value, "a dict", secret=True)
            values[key.lower()] = value
        return cls(**values)


@dataclass(frozen=True, slots=True)
class DebeziumSettings:
    """The names that Debezium's connector uses in PostgreSQL: its replication slot, and the publication that it reads."""

    slot: str
    publication: str

    @classmethod
    def of(cls, given: Any, source: str) -> DebeziumSettings:
        """The value of ``DEBEZIUM``. By default, both names are ``outbox_`` and the source in lower case.

        Raises:
            ImproperlyConfigured: it is invalid.
        """
        expected = (
            'a dict with "SLOT", "PUBLICATION" or both: names of at most 63 lower-case letters, digits and underscores'
        )
        if not isinstance(given, Mapping) or not given.keys() <= {"SLOT", "PUBLICATION"}:
            raise invalid("DEBEZIUM", given, expected)
        if not all(isinstance(name, str) and _SLOT.match(name) for name in given.values()):
            raise invalid("DEBEZIUM", given, expected)
        default = re.sub("[^a-z0-9_]", "_", f"outbox_{source.lower()}")[:63]
        return cls(given.get("SLOT", default), given.get("PUBLICATION", default))


@dataclass(frozen=True, slots=True)
class CircuitBreaker:
    """When a handler that keeps failing is paused, and for how long."""

    failures: int
    pause: timedelta

    @classmethod
    def of(cls, given: Any) -> CircuitBreaker | None:
        """The value of ``CIRCUIT_BREAKER``.

        Raises:
            ImproperlyConfigured: it is invalid.
        """
        expected = f'None or {{"FAILURES": 1 to {LARGEST_COUNT}, "PAUSE": seconds, above 0 and at most a day}}'
        if given is None:
            return None
        if not isinstance(given, Mapping) or given.keys() != {"FAILURES", "PAUSE"}:
            raise invalid("CIRCUIT_BREAKER", given, expected)
        failures, pause = given["FAILURES"], given["PAUSE"]
        if not isinstance(failures, int) or isinstance(failures, bool) or not 1 <= failures <= LARGEST_COUNT:
            raise invalid("CIRCUIT_BREAKER", given, expected)
        if (
            not isinstance(pause, (int, float))
            or isinstance(pause, bool)
            or not 0 < pause <= LONGEST_WAIT.total_seconds()
        ):
            raise invalid("CIRCUIT_BREAKER", given, expected)
        return cls(failures, timedelta(seconds=pause))


def invalid(key: str, value: Any, expected: str, *, secret: bool = False) -> ImproperlyConfigured:
    """The error for an invalid value. Of a secret value only the type is shown."""
    shown = type(value).__name__ if secret else _shown(value)
    return ImproperlyConfigured(f'OUTBOX["{key}"] must be {expected}, not {shown}.')


def _shown(value: Any) -> str:
    """An invalid value, shortened; its type if ``repr`` raises, as for a number with too many digits."""
    try:
        text = repr(value)
    except Exception:
        return type(value).__name__
    return text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}..."


def import_function(key: str, path: str) -> Callable[[Any], Any]:
    """The function or class at a dotted path.

    Raises:
        ImproperlyConfigured: it cannot be imported or called.
    """
    try:
        function = import_string(path)
    except Exception as error:  # whatever the project's module raises
        raise ImproperlyConfigured(
            f'OUTBOX["{key}"] cannot be imported ({type(error).__name__}: {text_of(error)}).'
        ) from error
    if not callable(function):
        raise invalid(key, function, "the dotted path of a function")
    return cast(Callable[[Any], Any], function)


def checked_serializers(given: Any) -> Mapping[str, Mapping[str, Any]]:
    """The value of ``SERIALIZERS``.

    Raises:
        ImproperlyConfigured: it is invalid.
    """
    expected = 'a dict from event type patterns to {"CLASS": dotted path, "OPTIONS": {...}}'
    if not isinstance(given, Mapping):
        raise invalid("SERIALIZERS", given, expected, secret=True)
    for pattern, each in given.items():
        if (
            not isinstance(pattern, str)
            or not isinstance(each, Mapping)
            or not {"CLASS"} <= each.keys() <= {"CLASS", "OPTIONS"}
            or not isinstance(each["CLASS"], str)
            or not isinstance(each.get("OPTIONS", {}), Mapping)
        ):
            raise invalid("SERIALIZERS", given, expected, secret=True)
    return given


def tracing_class(wanted: Any) -> Callable[..., Any] | None:
    """The class that ``TRACING`` chooses; None: no traces.

    Raises:
        ImproperlyConfigured: the value is invalid, or OpenTelemetry is not installed.
    """
    if wanted is False or (wanted is None and "opentelemetry.trace" not in sys.modules):
        return None
    if wanted is True and not is_importable("opentelemetry.trace"):
        raise ImproperlyConfigured(
            "OUTBOX[\"TRACING\"] is True, but OpenTelemetry is not installed: pip install 'django-kafka-outbox[otel]'."
        )
    if wanted is None or wanted is True:
        return import_function("TRACING", OPENTELEMETRY)
    if not isinstance(wanted, str):
        raise invalid("TRACING", wanted, "True, False, None or the dotted path of a class")
    return import_function("TRACING", wanted)


def is_importable(name: str) -> bool:
    """True if a module can be imported."""
    try:
        import_module(name)
    except ImportError:
        return False
    return True
