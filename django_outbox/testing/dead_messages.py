"""Messages that are dead after a drain, and the error of the first."""

from __future__ import annotations

from typing import Any

from django_outbox.exceptions import handlers_of
from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.testing.moving_time import Row


class DeadMessages:
    """Collects them from the signal ``message_dead``.

    Attributes:
        error: of the first one, with a note that names the message.
    """

    def __init__(self, using: str) -> None:
        self._using = using
        self._rows: dict[Row, None] = {}
        self.error: Exception | None = None

    @property
    def messages(self) -> tuple[OutboxMessage | InboxMessage, ...]:
        """Those that are still dead."""
        found = [
            model._default_manager.using(self._using).filter(id=id, status="dead").first() for model, id in self._rows
        ]
        return tuple(message for message in found if message is not None)

    def add(self, sender: type[OutboxMessage | InboxMessage], **about: Any) -> None:
        """A receiver of the signal."""
        self._rows[sender, about["message_id"]] = None
        if self.error is not None:
            return
        error = about["error"]
        name = "Inbox message" if sender is InboxMessage else "Message"
        what = f"{name} {about['message_id']} ({about['event_type']})"
        if not isinstance(error, Exception):
            self.error = AssertionError(f"{what} is dead: {error}")
            return
        if handlers := handlers_of(error):
            what += f", handled by {handlers},"
        error.add_note(f"{what} is dead after attempt {about['attempt']}.")
        self.error = error
