"""The audit log of commands: log lines, as Django's admin log needs a user account."""

from __future__ import annotations

import getpass
import logging

log = logging.getLogger("django_outbox.operations")


def record(action: str, text: str) -> None:
    """Log what the operating system's user begins or has done."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name, as in many containers
        user = "unknown user"
    log.info("%s: %s", user, text, extra={"action": action, "user": user})
