"""Who did what to which messages by a command: lines of the log, as the admin's log needs a user of its own."""

from __future__ import annotations

import getpass
import logging

log = logging.getLogger("django_outbox.operations")


def note(action: str, text: str) -> None:
    """Write down what is begun or done, with the name that the operating system has for whoever does it."""
    who = _user()
    log.info("%s: %s", who, text, extra={"action": action, "user": who})


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name, as in many containers
        return "somebody"
