"""HANDLER_TIMEOUT: the timers are armed while a handler runs, and never stay armed."""

from __future__ import annotations

import faulthandler
import io
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import pytest

from django_outbox.events.event import Event
from django_outbox.handlers import handler as handlers
from django_outbox.handlers import timeout as deadline
from django_outbox.handlers.handler import Handler
from django_outbox.handlers.timeout import call_within
from tests.support.overrides import outbox_settings


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What faulthandler's timer was told, instead of telling it."""
    told: list[Any] = []
    monkeypatch.setattr(
        faulthandler, "dump_traceback_later", lambda seconds, **options: told.append((seconds, options))
    )
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: told.append("cancelled"))
    return told


def test_in_time_the_result_is_returned_and_nothing_stays_armed(timer: list[Any]) -> None:
    assert call_within(600, "it", lambda a, b: a + b, 1, 2) == 3
    assert [each if each == "cancelled" else each[0] for each in timer] == [600 + deadline.GRACE_SECONDS, "cancelled"]
    assert timer[0][1]["exit"] is True


@pytest.mark.parametrize("error", [LookupError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_after_an_exception_nothing_stays_armed(timer: list[Any], error: BaseException) -> None:
    def fails() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        call_within(600, "it", fails)
    assert raised.value is error
    assert timer[-1] == "cancelled"


def test_nothing_stays_armed_if_the_timer_cannot_be_set(monkeypatch: pytest.MonkeyPatch, timer: list[Any]) -> None:
    def fails(*args: Any, **options: Any) -> None:
        raise RuntimeError("unable to start watchdog thread")

    monkeypatch.setattr(faulthandler, "dump_traceback_later", fails)
    with pytest.raises(RuntimeError, match="watchdog"):
        call_within(600, "it", lambda: None)
    assert timer == ["cancelled"]


def test_traceback_of_an_error_shows_nothing_of_the_deadline(timer: list[Any]) -> None:
    def fails() -> None:
        try:
            raise LookupError("first")
        except LookupError:
            raise ValueError("second")  # noqa: B904

    with pytest.raises(ValueError, match="second") as raised:
        call_within(600, "it", fails)
    text = "".join(traceback.format_exception(raised.value))
    assert "HANDLER_TIMEOUT" not in text
    assert text.count("in fails") == 2
    assert isinstance(raised.value.__context__, LookupError)
    assert not raised.value.__suppress_context__


def test_without_the_setting_nothing_is_armed(timer: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    handled: list[Event] = []
    event = Event(type="order.created")
    threads = set(threading.enumerate())
    Handler("order.created", handled.append, None, None)(event)
    assert (handled, timer) == ([event], [])
    assert set(threading.enumerate()) <= threads  # some of other tests may have ended
    with outbox_settings(HANDLER_TIMEOUT=600):
        Handler("order.created", handled.append, None, None)(event)
    assert len(timer) == 2


def test_batch_is_one_call_that_is_named_by_its_first_event(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(handlers, "call_within", lambda *arguments, **options: told.append((arguments[:2], options)))
    events = [Event(type="order.created", id=str(number), topic="orders", attempt=2) for number in range(3)]
    with outbox_settings(HANDLER_TIMEOUT=600):
        Handler("order.created", print, None, None, batch=10)(events)
    assert told == [
        (
            (600, "handler builtins.print with event 0 (order.created) and 2 more"),
            {"about": {"event_id": "0", "topic": "orders", "attempt": 2}},
        )
    ]


def test_stderr_s_own_file_is_used_where_it_has_one(
    timer: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "errors.log").open("w") as file:
        number = file.fileno()
        monkeypatch.setattr(sys, "stderr", file)
        call_within(600, "it", lambda: None)
    call_within(600, "it", lambda: None)  # closed
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    call_within(600, "it", lambda: None)
    assert [each[1]["file"] for each in timer if each != "cancelled"] == [number, 2, 2]


def test_with_several_threads_the_timer_is_that_of_the_first_deadline(timer: list[Any]) -> None:
    running, end = threading.Event(), threading.Event()

    def wait() -> None:
        running.set()
        assert end.wait(60)

    thread = threading.Thread(target=call_within, args=(300, "the other", wait))
    thread.start()
    assert running.wait(60)
    call_within(600, "a later one", lambda: None)
    assert call_within(100, "an earlier one", lambda: 5) == 5
    first, earlier, again = (seconds for seconds, _ in timer)
    assert (first, earlier) == (300 + deadline.GRACE_SECONDS, 100 + deadline.GRACE_SECONDS)
    assert 200 < again <= first
    end.set()
    thread.join(60)
    assert timer[3:] == ["cancelled"]
