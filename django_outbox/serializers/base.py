"""The contract of serializers: a payload becomes the value of a record, and the value a payload again."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, ClassVar, NamedTuple

LOAD_SECONDS = 1.0
"""How long a worker waits for a schema that it needs. After that, only the messages wait."""
_LOADS_AT_ONCE = 8


class Decoded(NamedTuple):
    """What a value says. ``headers`` name the schema that it was written with; they are added to those of the event."""

    payload: Any
    headers: Mapping[str, str]


class NotLoaded(Exception):
    """A message needs a schema that this process has not loaded yet.

    The registry must not be called in a transaction: call ``load`` outside of it, then try again. What it raises is wrong
    with the messages, except ``RegistryUnavailable``. Messages with the same ``key`` need the same schema.
    """

    def __init__(self, key: Hashable, load: Callable[[], object]) -> None:
        super().__init__()
        self.key = key
        self.load = load


def load_all(missing: Iterable[NotLoaded], seconds: float | None = None) -> dict[Hashable, Exception | None]:
    """Load all schemas that were missing, several at a time, and wait for them up to so many seconds.

    Loads that take longer go on in their threads, which end with the process.

    Returns:
        The errors by key; None for a schema that is loaded, or still on its way.
    """
    results: dict[Hashable, Exception | None] = {}
    loads: SimpleQueue[NotLoaded] = SimpleQueue()
    for each in missing:
        if each.key not in results:
            results[each.key] = None
            loads.put(each)

    def work() -> None:
        with suppress(Empty):
            while True:
                each = loads.get_nowait()
                try:
                    each.load()
                except Exception as error:
                    results[each.key] = error

    # Not a ThreadPoolExecutor: the end of the process would wait for its threads.
    threads = [
        Thread(target=work, name="outbox-schemas", daemon=True) for _ in range(min(len(results), _LOADS_AT_ONCE))
    ]
    over_at = float("inf") if seconds is None else time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(None if seconds is None else max(0.0, over_at - time.monotonic()))
    return dict(results)


class Serializer(ABC):
    """Writes and reads the payloads of some event types. One instance serves all threads."""

    content_type: ClassVar[str]
    """The media type of its values, sent as the header ``content-type``."""

    def check(self) -> None:  # noqa: B027  # a serializer may have nothing to check
        """Check the project's schemas for ``manage.py check``, which calls no server.

        Raises:
            ImproperlyConfigured: one cannot be used.
        """

    @abstractmethod
    def validate(self, payload: Any, event_type: str, topic: str) -> None:
        """Check a payload in ``publish()``. It is in the caller's transaction and must not call a server.

        Raises:
            InvalidMessage: it does not fit the schema; the error names the field but not its value.
            ImproperlyConfigured: the project's schema cannot be used.
        """

    @abstractmethod
    def serialize(self, payload_json: str, event_type: str, topic: str) -> bytes:
        """Return the value of a record.

        Raises:
            InvalidMessage: the payload does not fit the schema.
            ImproperlyConfigured: there is no schema for it, or it cannot be used.
            NotLoaded: its schema must be loaded first.
            RegistryUnavailable: that is not possible now.
        """

    @abstractmethod
    def deserialize(self, data: bytes, event_type: str, topic: str) -> Decoded:
        """Return what the value of a record says.

        Raises:
            UnreadableRecord: with the reason.
            NotLoaded: its schema must be loaded first.
            RegistryUnavailable: that is not possible now.
        """


def kind_of(value: Any) -> str:
    """A JSON value for an error message, which must not show it."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "text", list: "an array", dict: "an object"}
    return names.get(type(value), type(value).__name__)
