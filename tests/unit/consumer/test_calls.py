"""Calls of handlers in a transaction: a batch fills up, but is called before a later event of one of its keys."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import pytest

from django_outbox.consumer.calls import Attempt, Calls
from django_outbox.events.event import Event
from django_outbox.handlers.handler import Handler, Handlers

BATCH_SIZES = {"first": 3, "second": 3, "single": None}


class Called:
    """Names events as ``"<type>:<key>"``, and keeps what is called with what."""

    def __init__(self) -> None:
        self.attempt = Attempt()
        self.calls = Calls(self._run, self.attempt)
        self.ran: list[list[str]] = []
        self.running: list[Sequence[Event]] = []

    def add(self, *names: str) -> None:
        for name in names:
            kind, key = name.split(":")
            event = Event(type=kind, payload=name, key=key, headers={}, topic="orders")
            self.calls.add(event, Handlers([Handler(kind, print, None, None, batch=BATCH_SIZES[kind])]))

    def _run(self, events: Event | Sequence[Event], handlers: Sequence[Handler]) -> None:
        self.running.append(self.attempt.running)
        self.ran.append([str(event.payload) for event in ([events] if isinstance(events, Event) else events)])


@pytest.mark.parametrize(
    ("names", "ran"),
    [
        (["first:k", "first:k"], []),
        (["first:k", "first:k", "first:l"], [["first:k", "first:k", "first:l"]]),
        (["first:k", "second:l", "single:k"], [["first:k"], ["single:k"]]),
        (["first:k", "second:l", "single:m"], [["single:m"]]),
        (["first:k", "second:k"], [["first:k"]]),
        (["first:k", "second:l", "first:l"], [["second:l"]]),
        (["first:", "second:", "single:"], [["single:"]]),  # without a key, nothing is in order
    ],
)
def test_a_batch_is_called_when_it_is_full_or_another_event_of_a_key_comes(
    names: list[str], ran: list[list[str]]
) -> None:
    called = Called()
    called.add(*names)
    assert called.ran == ran
    called.calls.finish()
    assert sorted(chain(*called.ran)) == sorted(names)


def test_the_events_that_run_are_known_while_they_run() -> None:
    called = Called()
    called.add("single:k", "first:k", "first:l")
    called.calls.finish()
    assert [[event.payload for event in events] for events in called.running] == [["single:k"], ["first:k", "first:l"]]
    assert called.attempt.running == ()
