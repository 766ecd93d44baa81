"""The bound of a drain, for messages that would cause others, or fail, for ever."""

from __future__ import annotations

from collections import Counter
from typing import Any

from django_outbox.models import InboxMessage, OutboxMessage
from django_outbox.testing.moving_time import Row


class Limit:
    """Bounds the messages that are published in a drain, and the failures of each. Messages of the test are not counted."""

    def __init__(self, most: int, using: str) -> None:
        self._most = most
        self._rows = OutboxMessage.objects.using(using).own()
        self._last_id = 0  # of the messages of the test
        self._failures: Counter[Row] = Counter()

    def begin(self) -> None:
        """Count from here."""
        self._last_id = self._rows.order_by("id").values_list("id", flat=True).last() or 0

    def add_failure(self, sender: type[OutboxMessage | InboxMessage], **about: Any) -> None:
        """A receiver of the signal ``message_failed``."""
        self._failures[sender, about["message_id"]] += 1

    def check(self) -> None:
        """
        Raises:
            AssertionError: there are more than allowed.
        """
        published = self._rows.filter(id__gt=self._last_id).count()
        if published > self._most:
            raise AssertionError(
                f"{published} messages were published while the handlers ran. Do handlers publish events that lead to "
                f"themselves? If the number is right, pass limit=."
            )
        for (_, id), failures in self._failures.most_common(1):
            if failures > self._most:
                raise AssertionError(f"Message {id} has failed {failures} times. If the number is right, pass limit=.")
