"""HANDLER_TIMEOUT: the timers are armed while a handler runs, and never stay armed."""

from __future__ import annotations

import faulthandler
import io
import sys
import threading
import traceback
from typing import Any

import pytest

from django_outbox.events.event import Event
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
    armed = []
    assert call_within(600, "it", lambda a, b: (armed.append(deadline._current), a + b)[1], 1, 2) == 3
    assert armed[0] is not None
    assert deadline._current is None
    assert [each if each == "cancelled" else each[0] for each in timer] == [600 + deadline.GRACE_SECONDS, "cancelled"]
    assert timer[0][1]["exit"] is True


@pytest.mark.parametrize("error", [LookupError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_after_an_exception_nothing_stays_armed(timer: list[Any], error: BaseException) -> None:
    def fails() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        call_within(600, "it", fails)
    assert raised.value is error
    assert deadline._current is None
    assert timer[-1] == "cancelled"


def test_nothing_stays_armed_if_the_timer_cannot_be_set(monkeypatch: pytest.MonkeyPatch, timer: list[Any]) -> None:
    def fails(*args: Any, **options: Any) -> None:
        raise RuntimeError("unable to start watchdog thread")

    monkeypatch.setattr(faulthandler, "dump_traceback_later", fails)
    with pytest.raises(RuntimeError, match="watchdog"):
        call_within(600, "it", lambda: None)
    assert deadline._current is None
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
    before = threading.active_count()
    Handler("order.created", handled.append, None, None)(event)
    assert (handled, timer, threading.active_count()) == ([event], [], before)
    with outbox_settings(HANDLER_TIMEOUT=600):
        Handler("order.created", handled.append, None, None)(event)
    assert len(timer) == 2


def test_a_thread_that_is_gone_as_after_a_fork_is_started_again(
    timer: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = threading.Thread(target=lambda: None)
    gone.start()
    gone.join()
    monkeypatch.setattr(deadline, "_thread", gone)
    call_within(600, "it", lambda: None)
    assert deadline._thread is not gone
    assert deadline._thread is not None
    first = deadline._thread
    call_within(600, "it", lambda: None)
    assert deadline._thread is first
    assert first.is_alive()


def test_stderr_s_own_file_is_used_where_it_has_one(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "errors.log").open("w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        assert deadline._stderr() == file.fileno()
    assert deadline._stderr() == 2  # closed
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert deadline._stderr() == 2
