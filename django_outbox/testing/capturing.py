"""Assertions about the messages that a test has published."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, overload
from uuid import UUID

from django.db import DatabaseError
from django.db.models import QuerySet

from django_outbox.models import OutboxMessage, outbox_database
from django_outbox.testing.matching import UNSET, Expected, describe

__unittest = True  # unittest shows no lines of this module in a failure

MOST_SHOWN = 20


class PublishedMessages(Sequence[OutboxMessage]):
    """Published messages in the order in which they were published. What is rolled back is not published."""

    def __init__(self, rows: QuerySet[OutboxMessage]) -> None:
        self._rows = rows.order_by("id")
        self._messages: list[OutboxMessage] | None = None

    def finish(self) -> None:
        """Keep the messages as they are now; until then, each use reads them from the database."""
        try:
            self._messages = list(self._rows.all())
        except DatabaseError:  # the transaction is broken: nothing of it will be committed
            self._messages = []

    @property
    def _current(self) -> list[OutboxMessage]:
        return list(self._rows.all()) if self._messages is None else self._messages

    def __len__(self) -> int:
        return len(self._current)

    @overload
    def __getitem__(self, index: int) -> OutboxMessage: ...
    @overload
    def __getitem__(self, index: slice) -> list[OutboxMessage]: ...
    def __getitem__(self, index: int | slice) -> OutboxMessage | list[OutboxMessage]:
        return self._current[index]

    def __iter__(self) -> Iterator[OutboxMessage]:
        return iter(self._current)

    def __repr__(self) -> str:
        return f"<PublishedMessages: [{'; '.join(map(describe, self._current))}]>"

    def assert_published(
        self,
        event_type: str,
        *,
        key: str | int | UUID | None = None,
        payload: Any = UNSET,
        payload__contains: Any = UNSET,
        topic: str | None = None,
        version: str | None = None,
        count: int | None = None,
    ) -> list[OutboxMessage]:
        """As the function ``assert_published``, for these messages."""
        __tracebackhide__ = True
        fields = {"event_type": event_type, "key": key, "topic": topic, "version": version}
        expected = Expected.of(fields, payload, payload__contains, using=self._rows.db)
        messages = self._current
        matching = [message for message in messages if expected.matches(message)]
        if matching if count is None else len(matching) == count:
            return matching
        raise AssertionError(_failure(expected, count, messages, matching))

    def assert_nothing_published(self) -> None:
        """As the function ``assert_nothing_published``, for these messages."""
        __tracebackhide__ = True
        if messages := self._current:
            raise AssertionError(f"Expected no message to be published. {_listing(messages)}")


@contextmanager
def captured_messages(*, using: str | None = None) -> Iterator[PublishedMessages]:
    """Collect the messages that are published in the block, to assert something about these only.

    In the block, the result shows what is published so far; after it, the messages as they were at its end.

    Args:
        using: alias of the database; None asks the database router.
    """
    rows = _own(using)
    last = rows.order_by("id").values_list("id", flat=True).last() or 0
    messages = PublishedMessages(rows.filter(id__gt=last))
    try:
        yield messages
    finally:
        messages.finish()


def assert_published(
    event_type: str,
    *,
    key: str | int | UUID | None = None,
    payload: Any = UNSET,
    payload__contains: Any = UNSET,
    topic: str | None = None,
    version: str | None = None,
    count: int | None = None,
    using: str | None = None,
) -> list[OutboxMessage]:
    """Fail unless a message like this was published in the test, by the code under test or by a handler.

    Args:
        event_type: its exact type. The other arguments are not compared if they are not given.
        key, topic, version: as they were published or, for ``topic``, as the settings chose.
        payload: the whole payload, in any form that ``publish()`` takes; ``mock.ANY`` may stand for a part.
        payload__contains: a part of it; nested dicts and lists may contain more.
        count: how many messages must match; None for at least one.
        using: alias of the database; None asks the database router.

    Returns:
        The messages that match, in the order in which they were published.

    Raises:
        AssertionError: with what was published instead, and the difference to the message that comes nearest.
    """
    __tracebackhide__ = True
    return PublishedMessages(_own(using)).assert_published(
        event_type,
        key=key,
        payload=payload,
        payload__contains=payload__contains,
        topic=topic,
        version=version,
        count=count,
    )


def assert_nothing_published(*, using: str | None = None) -> None:
    """Fail if a message was published in the test.

    Raises:
        AssertionError: with the messages.
    """
    __tracebackhide__ = True
    PublishedMessages(_own(using)).assert_nothing_published()


def _own(using: str | None) -> QuerySet[OutboxMessage]:
    return OutboxMessage.objects.using(using or outbox_database()).own()


def _failure(
    expected: Expected, count: int | None, messages: Sequence[OutboxMessage], matching: Sequence[OutboxMessage]
) -> str:
    wanted = "a message" if count is None else f"{count} message{'' if count == 1 else 's'}"
    begin = f"Expected {wanted} like this: {expected}"
    if not messages:
        return f"{begin}\nNothing was published."
    if matching:
        listing = _listing(messages, {message.id: "matches" for message in matching})
        return f"{begin}\nFound {len(matching)}. {listing}"
    nearest = max(messages, key=expected.likeness)
    difference = "\n".join(expected.difference(nearest))
    listing = _listing(messages, {nearest.id: "nearest"})
    return f"{begin}\nFound none. {listing}\nDifference to the nearest (- expected, + published):\n{difference}"


def _listing(messages: Sequence[OutboxMessage], marks: dict[int, str] | None = None) -> str:
    marks = marks or {}
    lines = []
    for number, message in enumerate(messages, 1):
        if number <= MOST_SHOWN or message.id in marks:
            mark = f"  <-- {marks[message.id]}" if message.id in marks else ""
            lines.append(f"  {number}. {describe(message)}{mark}")
    if left := len(messages) - len(lines):
        lines.append(f"  ... and {left} more")
    return "\n".join(["Published:", *lines])
