"""What all log records have in common."""

from __future__ import annotations

import logging

ACTIONS = frozenset(
    [
        "again",
        "backlog",
        "cancel",
        "consumed",
        "created",
        "dead",
        "delete",
        "drained",
        "ended",
        "failed",
        "heartbeat",
        "metrics",
        "notify",
        "observed",
        "on_commit",
        "pause",
        "paused",
        "pooler",
        "purge",
        "put_back",
        "reconciled",
        "recovered",
        "reload",
        "repeated",
        "reprocess",
        "resume",
        "resumed",
        "retry",
        "rolled_back",
        "scrape",
        "serving",
        "signal",
        "skipped",
        "started",
        "stopping",
        "timeout",
        "trace",
        "traceback",
        "trouble",
        "watching",
    ]
)


class Checking(logging.Handler):
    """Formats each record and notes what is wrong with it."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception as error:  # the wrong number of arguments
            self.wrong.append(f"{record.msg!r}, {record.args!r}: {error}")
            return
        action = getattr(record, "action", None)
        if action not in ACTIONS:
            self.wrong.append(f"action {action!r}: {text}")
        elif not text or (isinstance(record.args, tuple) and None in record.args):
            self.wrong.append(f"{text!r}, {record.args!r}")
