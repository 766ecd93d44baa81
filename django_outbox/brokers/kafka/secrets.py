"""Keeping passwords out of kafka-python's DEBUG logs, which show its configuration and its requests."""

from __future__ import annotations

import logging
from typing import Any

from django_outbox.brokers.secrets import Secret, keep

_REQUEST_LOGGERS = ("kafka.net.connection", "kafka.protocol.parser")


class _NoPasswords(logging.Filter):
    """Drops log records of requests with a password."""

    def __init__(self) -> None:
        super().__init__()
        self.passwords: set[bytes] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        arguments = record.args if isinstance(record.args, tuple) else ()
        return not any(self._is_shown_by(argument) for argument in arguments)

    def _is_shown_by(self, argument: Any) -> bool:
        data: Any = argument if isinstance(argument, bytes | bytearray) else getattr(argument, "auth_bytes", None)
        return bool(data) and any(password in data for password in self.passwords)


_no_passwords = _NoPasswords()


def secret(text: str) -> Secret:
    """The text, hidden from now on in the client's logs."""
    keep(text)
    if text:
        _no_passwords.passwords.add(text.encode())
        for name in _REQUEST_LOGGERS:
            logging.getLogger(name).addFilter(_no_passwords)  # has no effect the second time
    return Secret(text)
