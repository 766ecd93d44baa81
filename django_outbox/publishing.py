"""Writing events to the outbox, in the transaction of the business data."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.db import DEFAULT_DB_ALIAS, transaction

from django_outbox.brokers.limits import largest_payload
from django_outbox.conf import TASK_PREFIX, settings
from django_outbox.events.arguments import (
    checked_delay,
    checked_event_id,
    checked_headers,
    checked_key,
    checked_max_retry,
    checked_text,
    checked_topic,
)
from django_outbox.events.debezium import can_carry, publishes
from django_outbox.events.declared import EventType, event_types, to_publish
from django_outbox.events.event import Event
from django_outbox.events.payloads import Content, content_of, has_tombstone, is_tombstone, require_valid
from django_outbox.exceptions import InvalidMessage, TransactionRequired
from django_outbox.models import OutboxMessage, outbox_database
from django_outbox.models.fields import uuid7
from django_outbox.models.lengths import TYPE_LENGTH, VERSION_LENGTH
from django_outbox.models.validation import payload_and_json
from django_outbox.observability.tracing.base import current_tracing
from django_outbox.serializers.configured import current_serializers
from django_outbox.state import outbox as state
from django_outbox.state.rows import NewMessage
from django_outbox.worker.notify import notify_after_commit

_NO_DELAY = timedelta()
_IN_ASYNC_CODE = (
    "Async code cannot open a transaction in Django: put the business data and publish() into one "
    "`with transaction.atomic():` block{where} in a synchronous function, and call it with `await sync_to_async(function)()`."
)


def publish(
    event_type: str,
    payload: Any,
    *,
    key: str | int | uuid.UUID = "",
    topic: str | None = None,
    headers: Mapping[str, str] | None = None,
    version: str = "v1",
    delay: timedelta | float | None = None,
    max_retry: int | None = None,
    event_id: uuid.UUID | str | None = None,
    using: str | None = None,
) -> OutboxMessage:
    """Write an event that will reach Kafka if, and only if, the current transaction commits.

    Args:
        event_type: name of what happened, such as ``"order.created"``; at most 255 characters.
        payload: any value that JSON can represent, with dates, times, ``timedelta``, ``Decimal``, ``UUID`` and lazy texts
            as ``DjangoJSONEncoder`` writes them; a dataclass or a pydantic model; at most ``MAX_PAYLOAD_BYTES`` as JSON.
            ``RawBytes`` are sent unchanged. ``TOMBSTONE`` sends a record without a value and needs a key.
        key: events with the same topic and key keep their order; at most 255 characters, ``""`` for none. An int or
            a UUID is converted to text.
        topic: Kafka topic; None takes the first match in ``ROUTES``, else ``TOPIC``.
        headers: text by name, sent as Kafka headers.
        version: version of the payload's schema; at most 32 characters. An instance of a class that is declared with
            ``@event_type`` has the version of its class; ``"v1"`` counts as not given.
        delay: seconds or a timedelta to wait before the event is sent; later events with the same key wait as long. With
            Debezium only in handlers without a ``group``: others get later events first.
        max_retry: number of failures after which it is dead; 0 and 1 allow no retry. None takes ``MAX_RETRY``.
        event_id: identity of the event; None makes a new UUIDv7.
        using: alias of the database; None asks the database router.

    Returns:
        The stored message.

    Raises:
        TransactionRequired: outside ``transaction.atomic()``, unless ``REQUIRE_TRANSACTION`` is False.
        InvalidMessage: an argument is invalid; the error names it. Nothing was written and the transaction can go on.
    """
    using = _database(using)
    event = Event(
        type=event_type,
        payload=payload,
        key=key,  # type: ignore[arg-type]  # converted by checked_key
        topic=topic,
        headers={} if headers is None else headers,
        version=version,
        id=event_id,  # type: ignore[arg-type]  # converted by checked_event_id
        delay=delay,
        max_retry=max_retry,
    )
    (stored,) = _insert([_Maker(using).make(event)], using)
    return stored


def publish_task(
    path: str,
    payload: Any,
    *,
    topic: str | None,
    delay: timedelta | None,
    max_retry: int | None,
    using: str,
) -> OutboxMessage:
    """Write a task of Django's Tasks framework, whose function has this path; arguments and errors as of ``publish``."""
    event = Event(type=TASK_PREFIX + path, payload=payload, topic=topic, delay=delay, max_retry=max_retry)
    (stored,) = _insert([_Maker(_database(using)).make(event, is_task=True)], using)
    return stored


def publish_many(events: Iterable[Event], using: str | None = None) -> list[OutboxMessage]:
    """Write many events with one bulk insert; they keep their order.

    Args:
        events: their ``type``, ``payload``, ``key``, ``topic``, ``headers``, ``version``, ``id``, ``delay`` and
            ``max_retry`` are used; see ``publish``.
        using: alias of the database; None asks the database router.

    Raises:
        TransactionRequired, InvalidMessage: as ``publish`` does; then nothing is written.
    """
    using = _database(using)
    maker = _Maker(using)
    return _insert([maker.make_numbered(number, event) for number, event in enumerate(events, 1)], using)


_P = ParamSpec("_P")
_R = TypeVar("_R")


def _for_async(function: Callable[_P, _R]) -> Callable[_P, Coroutine[Any, Any, _R]]:
    """Call a function in the thread whose transaction the awaiting code is in, as the async methods of models do."""
    in_thread = sync_to_async(function, thread_sensitive=True)

    @wraps(function)
    async def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return await in_thread(*args, **kwargs)
        except TransactionRequired as error:
            advice = _IN_ASYNC_CODE.format(where=" on the outbox's database")
            raise TransactionRequired(f"{call.__name__}() was awaited outside a transaction. {advice}") from error

    call.__name__ = call.__qualname__ = f"a{function.__name__}"
    return call


apublish = _for_async(publish)
"""``publish()`` for async code that runs in a transaction: a handler, or what ``async_to_sync`` calls in ``atomic()``."""
apublish_many = _for_async(publish_many)
"""``publish_many()`` for async code that runs in a transaction."""


def _insert(messages: Sequence[NewMessage], using: str) -> list[OutboxMessage]:
    with current_tracing().creating(messages):
        stored = state.insert(messages, using=using)
    if not all(message.by_debezium for message in messages):
        notify_after_commit(using)
    return stored


def _database(using: str | None) -> str:
    using = using or outbox_database()
    if settings.require_transaction and not transaction.get_connection(using).in_atomic_block:
        where = "" if using == DEFAULT_DB_ALIAS else f" on the database {using!r}"
        if _is_in_async_code():
            raise TransactionRequired(
                "publish() was called directly in async code. In an async handler, await apublish() or apublish_many(). "
                f"{_IN_ASYNC_CODE.format(where=where)}"
            )
        raise TransactionRequired(
            "publish() was called outside a transaction, so the event and the business data "
            f"would not be saved together. Put both into one `with transaction.atomic():` block{where}."
        )
    return using


def _is_in_async_code() -> bool:
    """True if Django refuses to open a transaction because an event loop is running."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return not os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE")


class _Maker:
    """Makes rows of events; reads the settings once for all of them."""

    def __init__(self, using: str) -> None:
        self._using = using
        self._limit = largest_payload()
        self._max_retry = settings.max_retry
        self._serializers = current_serializers()
        # Seldom set: this look-up takes a third of the time of the property.
        self._requires_declaration = "EVENT_TYPES" in settings.raw and settings.event_types == "required"
        self._uses_debezium = publishes(using)
        self._routed: dict[str, str] = {}

    def make_numbered(self, number: int, event: Any) -> NewMessage:
        if not isinstance(event, Event):
            reason = f"number {number} must be an Event(type=..., payload=...), not {type(event).__name__}"
            raise InvalidMessage("events", reason)
        try:
            return self.make(event)
        except InvalidMessage as error:
            raise InvalidMessage(error.field, f"{error.reason} (event number {number})") from error

    def make(self, event: Event, *, is_task: bool = False) -> NewMessage:
        event_type = checked_text("event_type", event.type, TYPE_LENGTH)
        if not event_type:
            raise InvalidMessage("event_type", "it is empty; name what happened, as in order.created")
        if event_type.startswith(TASK_PREFIX) and not is_task:
            raise InvalidMessage(
                "event_type", f"it begins with {TASK_PREFIX!r}, as only tasks of Django's Tasks framework do"
            )
        version = checked_text("version", event.version, VERSION_LENGTH)
        topic = self._topic(event_type, event.topic)
        key = checked_key(event.key)
        declared = None
        if not is_task and (self._requires_declaration or event_types.is_declared(event_type)):
            declared = self._declared(event, version)
        content, text = self._content(event, key, topic, declared)
        if declared is not None:
            version = checked_text("version", declared.version, VERSION_LENGTH)
        headers = checked_headers(event.headers)
        event_id = uuid7() if event.id is None else checked_event_id(event.id)
        max_retry = self._max_retry if event.max_retry is None else checked_max_retry(event.max_retry)
        delay = _NO_DELAY if event.delay is None else checked_delay(event.delay)
        message = NewMessage(event_id, event_type, version, topic, key, headers, text, max_retry, delay, *content)
        # Decided before tracing adds its headers, which the consumer reads from the row.
        message.by_debezium = self._uses_debezium and can_carry(message, self._serializers, self._limit)
        return message

    def _declared(self, event: Event, version: str) -> EventType | None:
        """What the payload must fit; None for tombstones and what this service does not declare."""
        own = event_types.own(event.type)
        if not own and self._requires_declaration:
            raise event_types.undeclared(event.type)
        return None if not own or has_tombstone(event) else to_publish(own, version, event.payload)

    def _content(self, event: Event, key: str, topic: str, declared: EventType | None) -> tuple[Content, str]:
        """The columns for the payload, and its JSON."""
        require_valid(event)
        content = content_of(event)
        if content is None:
            payload, text = payload_and_json(event.payload, using=self._using, limit=self._limit)
            if declared is not None:
                declared.payload.require(text)
            self._serializers.validate(payload, event.type, topic)
            return Content(payload), text
        if is_tombstone(content) and not key:
            raise InvalidMessage("key", "it is empty; a tombstone deletes earlier records of its key and needs one")
        size = len(content.raw_value or b"")
        if self._limit is not None and size > self._limit:
            raise InvalidMessage("payload", f"it has {size} bytes; the limit is {self._limit} (MAX_PAYLOAD_BYTES)")
        if declared is not None:
            declared.payload.require(event.payload)
        return content, "null"

    def _topic(self, event_type: str, topic: Any) -> str:
        if topic is not None:
            return checked_topic(event_type, topic)
        if event_type not in self._routed:
            self._routed[event_type] = checked_topic(event_type, None)
        return self._routed[event_type]
