"""The settings: ``OUTBOX`` in Django's settings, read at each use, never at import."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import import_module
from typing import Any, Literal, cast

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from django_outbox.exceptions import text_of

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
LARGEST_PAYLOAD = 2**31 - 1
SOURCE_LENGTH = 255
LONGEST_SHOWN = 500
LONGEST_WAIT = timedelta(days=1)
LONGEST_RETENTION = timedelta(days=36500)
_DOTTED_PATH = re.compile(r"[\w.]+\Z")


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Which broker to use and how to reach it. The URL may hold a password: never shown."""

    backend: str = DEFAULT_BACKEND
    url: str = field(default=DEFAULT_URL, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    producer_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    consumer_options: Mapping[str, Any] = field(default_factory=dict, repr=False)


class OutboxSettings:
    """One typed property a setting, named as its key in lower case.

    Each raises ``ImproperlyConfigured`` with a sentence that names the key and says what it takes.
    """

    KEYS = (
        "BROKER",
        "SOURCE",
        "TOPIC",
        "ROUTES",
        "CONSUMER_GROUP",
        "WIRE_FORMAT",
        "MAX_RETRY",
        "MAX_DELIVERIES",
        "HANDLER_TIMEOUT",
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

    @property
    def raw(self) -> Mapping[str, Any]:
        """The ``OUTBOX`` dict as the project wrote it."""
        value = getattr(django_settings, "OUTBOX", {})
        if not isinstance(value, Mapping):
            raise ImproperlyConfigured(f"OUTBOX must be a dict, not {type(value).__name__}.")
        return value

    @property
    def broker(self) -> BrokerSettings:
        raw = self._get("BROKER", {}, Mapping, "a dict")
        values: dict[str, Any] = {}
        for key in ("BACKEND", "URL"):
            value = raw.get(key, DEFAULT_BACKEND if key == "BACKEND" else DEFAULT_URL)
            if not isinstance(value, str) or not value:
                raise _wrong(f'BROKER"]["{key}', value, "text", secret=True)
            values[key.lower()] = value
        if not _DOTTED_PATH.match(values["backend"]):
            # Not shown: somebody may have put the URL here.
            raise ImproperlyConfigured(
                f'OUTBOX["BROKER"]["BACKEND"] takes the dotted path of a class, such as {DEFAULT_BACKEND}.'
            )
        for key in ("OPTIONS", "PRODUCER_OPTIONS", "CONSUMER_OPTIONS"):
            value = raw.get(key, {})
            if not isinstance(value, Mapping):
                raise _wrong(f'BROKER"]["{key}', value, "a dict", secret=True)
            values[key.lower()] = value
        return BrokerSettings(**values)

    @property
    def source(self) -> str:
        source: str = self._get("SOURCE", "", str, "text")
        if not source:
            raise ImproperlyConfigured(
                'OUTBOX["SOURCE"] is missing: name this service, as in OUTBOX = {"SOURCE": "shop"}.'
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
        routes: Mapping[str, str] = self._get("ROUTES", {}, Mapping, "a dict of topics by event type pattern")
        for pattern, topic in routes.items():
            if not isinstance(pattern, str) or not isinstance(topic, str) or not topic:
                raise _wrong("ROUTES", routes, "a dict of topics by event type pattern")
        return routes

    @property
    def topics(self) -> frozenset[str]:
        """All topics that ``TOPIC`` and ``ROUTES`` name."""
        return frozenset({self.topic, *self.routes.values()})

    @property
    def consumer_group(self) -> str:
        return self._text("CONSUMER_GROUP", "") if "CONSUMER_GROUP" in self.raw else self.source

    @property
    def wire_format(self) -> Literal["cloudevents", "envelope"]:
        return cast(Literal["cloudevents", "envelope"], self._choice("WIRE_FORMAT", "cloudevents", "envelope"))

    @property
    def max_retry(self) -> int:
        return self._count("MAX_RETRY", 20, least=0)

    @property
    def max_deliveries(self) -> int:
        return self._count("MAX_DELIVERIES", 5)

    @property
    def handler_timeout(self) -> float | None:
        """Seconds after which a handler that still runs ends its process; None: never."""
        if self.raw.get("HANDLER_TIMEOUT") is None:
            return None
        return self._seconds("HANDLER_TIMEOUT", 0, or_else=" (or None)")

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
    def require_transaction(self) -> bool:
        return bool(self._get("REQUIRE_TRANSACTION", True, bool, "True or False"))

    @property
    def relay_batch_size(self) -> int:
        return self._count("RELAY_BATCH_SIZE", 500)

    @property
    def poll_interval(self) -> float:
        """Seconds between two looks for due messages when there was none."""
        return self._seconds("POLL_INTERVAL", 0.2)

    @property
    def publish_timeout(self) -> float:
        """Seconds within which the broker has to acknowledge a batch."""
        return self._seconds("PUBLISH_TIMEOUT", 15)

    @property
    def dead_letter_topic(self) -> str | None:
        """Where a copy of each dead message goes; None: nowhere."""
        return None if self.raw.get("DEAD_LETTER_TOPIC") is None else self._text("DEAD_LETTER_TOPIC", "")

    @property
    def written_topics(self) -> frozenset[str]:
        """All topics that the relay writes to, as far as the settings tell."""
        return self.topics | ({self.dead_letter_topic} if self.dead_letter_topic else set())

    @property
    def notify(self) -> bool:
        return bool(self._get("NOTIFY", False, bool, "True or False"))

    @property
    def retention(self) -> dict[str, timedelta | None]:
        """How long messages are kept after their last change, by status; None keeps them.

        "inbox" is for those that the inbox has consumed, "dead" for the dead of both.
        """
        takes = 'a dict of timedeltas (or None: keep them) by "consumed", "published", "dead" and "inbox"'
        given = self._get("RETENTION", {}, Mapping, takes)
        for status, age in given.items():
            if status not in DEFAULT_RETENTION or not (age is None or isinstance(age, timedelta)):
                raise _wrong("RETENTION", given, takes)
            if age is not None and not timedelta(0) <= age <= LONGEST_RETENTION:
                raise _wrong("RETENTION", age, "ages from nothing to a hundred years, or None")
        return {**DEFAULT_RETENTION, **given}

    @property
    def purge(self) -> bool:
        """Whether relays delete what ``RETENTION`` no longer keeps, beside their work."""
        return bool(self._get("PURGE", True, bool, "True or False"))

    @property
    def inbox(self) -> dict[str, Callable[[Any], Any] | None]:
        """By topic, what makes events of records that are no CloudEvents; None leaves those alone."""
        takes = "a dict, by topic, of functions that make events of records, their dotted paths, or None"
        given = self._get("INBOX", {}, Mapping, takes)
        mappers: dict[str, Callable[[Any], Any] | None] = {}
        for topic, mapper in given.items():
            if not isinstance(topic, str) or not (mapper is None or isinstance(mapper, str) or callable(mapper)):
                raise _wrong("INBOX", given, takes)
            mappers[topic] = _function(f'INBOX"]["{topic}', mapper) if isinstance(mapper, str) else mapper
        return mappers

    @property
    def redact(self) -> tuple[str, ...]:
        """Names of payload values and headers that the admin hides from those who may not see them."""
        names = self.raw.get("REDACT", DEFAULT_REDACT)
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name for name in names):
            raise _wrong("REDACT", names, "a list of names, such as ['password', 'token']")
        return tuple(names)

    @property
    def tracing(self) -> Callable[..., Any] | None:
        """The class that makes the traces; None: nothing does.

        None, the default, leaves it to the project: it uses OpenTelemetry if it has imported it.
        """
        wanted = self.raw.get("TRACING")
        if wanted is False or (wanted is None and "opentelemetry.trace" not in sys.modules):
            return None
        if wanted is True and not _is_importable("opentelemetry.trace"):
            raise ImproperlyConfigured(
                'OUTBOX["TRACING"] is True, but OpenTelemetry is not installed: '
                "pip install 'django-kafka-outbox[otel]'."
            )
        if wanted is None or wanted is True:
            return _function("TRACING", OPENTELEMETRY)
        if not isinstance(wanted, str):
            raise _wrong("TRACING", wanted, "True, False, None or the dotted path of a class")
        return _function("TRACING", wanted)

    @property
    def max_payload_bytes(self) -> int | None:
        """The most bytes that the JSON of a payload may have; None: as many as the broker's client sends."""
        if self.raw.get("MAX_PAYLOAD_BYTES") is None:
            return None
        return self._count("MAX_PAYLOAD_BYTES", 0, most=LARGEST_PAYLOAD)

    def _get(self, key: str, default: Any, kind: type, takes: str) -> Any:
        value = self.raw.get(key, default)
        if not isinstance(value, kind):
            raise _wrong(key, value, takes, secret=key == "BROKER")
        return value

    def _text(self, key: str, default: str) -> str:
        value = self._get(key, default, str, "text")
        if not value:
            raise _wrong(key, value, "text that is not empty")
        return str(value)

    def _choice(self, key: str, *choices: str) -> object:
        value = self.raw.get(key, choices[0])
        if value not in choices:
            raise _wrong(key, value, " or ".join(f'"{choice}"' for choice in choices))
        return value

    def _count(self, key: str, default: int, *, least: int = 1, most: int = LARGEST_COUNT) -> int:
        value = self.raw.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise _wrong(key, value, f"a whole number from {least} to {most}")
        return value

    def _seconds(self, key: str, default: float, *, or_else: str = "") -> float:
        value = self.raw.get(key, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise _wrong(key, value, f"a number of seconds{or_else}")
        if not 0 < value <= LONGEST_WAIT.total_seconds():
            raise _wrong(key, value, f"a number of seconds above 0, of a day at most{or_else}")
        return float(value)


def _wrong(key: str, value: Any, takes: str, *, secret: bool = False) -> ImproperlyConfigured:
    shown = type(value).__name__ if secret else _shown(value)
    return ImproperlyConfigured(f'OUTBOX["{key}"] takes {takes}, not {shown}.')


def _shown(value: Any) -> str:
    """A wrong value, shortened; its type if it cannot even be shown, as a number of too many digits."""
    try:
        text = repr(value)
    except Exception:
        return type(value).__name__
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _function(key: str, path: str) -> Callable[[Any], Any]:
    try:
        function = import_string(path)
    except Exception as error:  # whatever the project's module raises
        raise ImproperlyConfigured(
            f'OUTBOX["{key}"] cannot be imported ({type(error).__name__}: {text_of(error)}).'
        ) from error
    if not callable(function):
        raise _wrong(key, function, "the dotted path of a function")
    return cast(Callable[[Any], Any], function)


def _is_importable(name: str) -> bool:
    try:
        import_module(name)
    except ImportError:
        return False
    return True


settings = OutboxSettings()
