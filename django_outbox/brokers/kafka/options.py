"""The options of kafka-python that a project may set, checked before the client gets them.

The client accepts almost any value, fails much later, and then shows the value.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from environ import Env
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from django_outbox.brokers.secrets import Secret
from django_outbox.brokers.tls import TLS

_GUARANTEE = "the delivery guarantees depend on the outbox's own value"
_RESERVED = {
    "bootstrap_servers": "the hosts come from the URL",
    "kafka_client": "the outbox sets its own",
    **dict.fromkeys(("acks", "enable_idempotence", "transactional_id"), _GUARANTEE),
    **dict.fromkeys(("auto_offset_reset", "enable_auto_commit", "group_id"), _GUARANTEE),
    **dict.fromkeys(("key_serializer", "value_serializer", "key_deserializer", "value_deserializer"), _GUARANTEE),
}
_CLIENTS = (KafkaProducer, KafkaConsumer, KafkaAdminClient)
_ONE_CLIENT = {"PRODUCER_OPTIONS": (KafkaProducer,), "CONSUMER_OPTIONS": (KafkaConsumer,)}
_TAKES: dict[Any, str] = {bool: "true or false", int | float: "a number", list | tuple: "a list", str: "text"}
_BOOLEANS = ("true", "false", "yes", "no", "on", "off", "1", "0")
_REQUEST_LOGGERS = ("kafka.net.connection", "kafka.protocol.parser")


def checked(key: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The checked options of one key; see ``ClusterBroker``."""
    return {name: _value(key, name, value) for name, value in options.items()}


def tls_files(options: Mapping[str, Any]) -> TLS:
    """The TLS files that the options name."""
    return TLS(
        cafile=options.get("ssl_cafile"),
        certfile=options.get("ssl_certfile"),
        keyfile=options.get("ssl_keyfile"),
        password=options.get("ssl_password"),
        checks_name=options.get("ssl_check_hostname", True),
        complete=options.get("ssl_context") is None,
    )


def _value(key: str, name: str, value: Any) -> Any:
    if name in _RESERVED:
        raise ImproperlyConfigured(f'OUTBOX["BROKER"]["{key}"] must not set {name!r}: {_RESERVED[name]}.')
    defaults = [
        client.DEFAULT_CONFIG[name] for client in _ONE_CLIENT.get(key, _CLIENTS) if name in client.DEFAULT_CONFIG
    ]
    if not defaults:
        raise ImproperlyConfigured(
            f'OUTBOX["BROKER"]["{key}"] has an option that kafka-python does not know: {name!r}.'
        )
    kind = _kind(name, defaults[0])
    if key == "URL":
        value = _from_text(value, kind)
    if value is None and defaults[0] is None:
        return value
    takes = _TAKES.get(kind)
    if takes and (not isinstance(value, kind) or (kind is not bool and isinstance(value, bool))):
        raise ImproperlyConfigured(f'OUTBOX["BROKER"]["{key}"]: the option {name!r} must be {takes}.')
    if "username" in name:
        return Secret(value)
    return secret(value) if "password" in name else value


def _kind(name: str, default: Any) -> Any:
    """The type of an option according to its name and default; ``object`` if unknown."""
    if isinstance(default, bool):
        return bool
    if isinstance(default, int | float) or name.endswith("_bytes"):
        return int | float
    if isinstance(default, list):
        return list | tuple
    return str if "password" in name or "username" in name else object


def _from_text(text: str, kind: type | None) -> Any:
    if kind is bool and text.lower() in _BOOLEANS:
        return Env.parse_value(text, bool)
    if kind == int | float:
        for number in (int, float):
            with suppress(ValueError):
                return number(text)
    return text


class _NoPasswords(logging.Filter):
    """Drops log records of requests with a password, which the client shows at the level DEBUG."""

    def __init__(self) -> None:
        super().__init__()
        self.passwords: set[bytes] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        return not any(self._is_shown_by(argument) for argument in record.args or ())

    def _is_shown_by(self, argument: Any) -> bool:
        data: Any = argument if isinstance(argument, bytes | bytearray) else getattr(argument, "auth_bytes", None)
        return bool(data) and any(password in data for password in self.passwords)


_no_passwords = _NoPasswords()


def secret(text: str) -> Secret:
    """The text, hidden from now on in the client's logs, too."""
    if text:
        _no_passwords.passwords.add(text.encode())
        for name in _REQUEST_LOGGERS:
            logging.getLogger(name).addFilter(_no_passwords)  # has no effect the second time
    return Secret(text)
