"""Records of other services, and an inbox that takes them, for tests."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.consumer.breaker import Breaker
from django_outbox.consumer.engine import Engine
from django_outbox.consumer.inbox.inbox import Inbox
from django_outbox.consumer.pauses import Pauses
from django_outbox.events.event import Event
from django_outbox.handlers.registry import GroupHandlers, Registry
from django_outbox.models import InboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.worker.transactions import OutageCounts

Status = InboxMessage.Status

_offsets = itertools.count()
_ids = itertools.count()


def received(
    payload: Any = None,
    *,
    key: str | bytes | None = None,
    value: bytes | None = None,
    offset: int | None = None,
    topic: str = "elsewhere",
    partition: int = 0,
    headers: Any = (),
    **attributes: str | bytes | None,
) -> ReceivedRecord:
    """A CloudEvent of another service in binary mode; an attribute that is None is left out."""
    values: dict[str, Any] = {
        "specversion": "1.0",
        "id": f"event-{next(_ids)}",
        "source": "warehouse",
        "type": "order.created",
        **attributes,
    }
    given = tuple(
        (f"ce_{name}", text if isinstance(text, bytes) else text.encode())
        for name, text in values.items()
        if text is not None
    )
    return ReceivedRecord(
        topic=topic,
        partition=partition,
        offset=next(_offsets) if offset is None else offset,
        key=key.encode() if isinstance(key, str) else key,
        value=json.dumps(payload).encode() if value is None else value,
        headers=(*given, ("content-type", b"application/json"), *headers),
    )


def plain(
    value: bytes | None, *, key: bytes | None = None, headers: Any = (), topic: str = "elsewhere"
) -> ReceivedRecord:
    """A record that is no CloudEvent."""
    return ReceivedRecord(topic, 0, next(_offsets), key, value, tuple(headers))


class Receiver:
    """An inbox with handlers of the test's own."""

    def __init__(self, group: str = "tests", clock: Callable[[], float] = lambda: 0.0) -> None:
        self.group = group
        self.handlers = Registry()
        self.handled: list[Event] = []
        self.transaction_size = 100.0
        self._clock = clock
        self._inbox: Inbox | None = None

    def on(self, event_type: str, function: Callable[..., Any] | None = None, **options: Any) -> None:
        """Handle events of a type; by default they are kept in ``handled``."""
        self.handlers.register(event_type, function or self.handled.append, **options)

    @property
    def inbox(self) -> Inbox:
        """Made at its first use, when the handlers are there."""
        if self._inbox is None:
            handlers = GroupHandlers(self.handlers, self.group)
            pauses = Pauses("default", handlers, self._clock)
            breaker = Breaker("default", self.group, pauses)
            engine = Engine("default", self.group, self._clock, outages=OutageCounts(), breaker=breaker, is_lane=False)
            engine.transaction_size = self.transaction_size
            self._inbox = Inbox(using="default", handlers=handlers, pauses=pauses).with_engine(engine)
        return self._inbox

    def restart(self) -> None:
        """As after a crash: what the process knew is gone."""
        self._inbox = None

    def receive(self, *records: ReceivedRecord, counted: bool = False) -> list[str]:
        """Handle fresh records, each with its delivery counted before if ``counted``; returns their outcomes."""
        if counted:
            return [self.inbox.receive_counted(record) for record in records]
        outcomes: list[str] = []
        while len(outcomes) < len(records):
            outcomes += self.inbox.receive(records[len(outcomes) :], lambda: False)
        return outcomes

    def retry(self, limit: int = 100) -> list[str]:
        """Let all that waits be due, and handle it."""
        make_due()
        return self.run_due(limit)

    def run_due(self, limit: int = 100) -> list[str]:
        """Handle messages that are due, the most overdue first, until none is left that can be handled."""
        outcomes: list[str] = []
        while len(outcomes) < limit:
            found = (self.inbox.handle_due(due.id) for due in self.inbox.due(limit))
            outcome = next((each for each in found if each is not None), None)
            if outcome is None:
                break
            outcomes.append(outcome)
        return outcomes

    @property
    def payloads(self) -> list[Any]:
        return [event.payload for event in self.handled]


def make_due(**filters: Any) -> None:
    """Let pending messages be due now, as if their wait were over."""
    InboxMessage.objects.filter(status=Status.PENDING, **filters).update(next_retry_at=DatabaseNow())


def statuses() -> list[str]:
    """The state of every message, by id."""
    return list(InboxMessage.objects.order_by("id").values_list("status", flat=True))


def only() -> InboxMessage:
    """The one message that there is."""
    return InboxMessage.objects.get()


def make_received(status: str = Status.PENDING, **fields: Any) -> InboxMessage:
    """A stored message in any state, whole as the constraints want it."""
    if status != Status.PENDING:
        fields.setdefault("next_retry_at", None)
    if status == Status.CONSUMED:
        fields.setdefault("consumed_at", DatabaseNow())
    values = {
        "group": "tests",
        "source": "warehouse",
        "event_id": f"stored-{next(_ids)}",
        "event_type": "order.created",
        "topic": "elsewhere",
        "partition": 0,
        "offset": next(_offsets),
        "payload": {"order": 1},
        **fields,
    }
    message = InboxMessage.objects.create(status=status, **values)
    return InboxMessage.objects.get(id=message.id)  # refresh_from_db() would leave deferred what MySQL does not return
