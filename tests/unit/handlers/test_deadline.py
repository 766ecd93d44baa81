"""HANDLER_TIMEOUT: a handler that takes too long ends its process, which says so; nothing else ever does."""

from __future__ import annotations

import faulthandler
import io
import subprocess
import sys
import threading
import traceback
from typing import Any

import pytest

from django_outbox.events.event import Event
from django_outbox.handlers import timeout as deadline
from django_outbox.handlers.registry import Handler
from django_outbox.handlers.timeout import call_within
from tests.support.overrides import outbox_settings

PROGRAM = """
import asyncio, io, re, sys, threading, time
from django.conf import settings
settings.configure(OUTBOX={{"SOURCE": "shop", "HANDLER_TIMEOUT": 0.2}})
from django_outbox.handlers import timeout as deadline
from django_outbox.events.event import Event
from django_outbox.handlers.registry import Handler
deadline.GRACE_SECONDS = {grace}

def sleeps(event):
    threading.Event().wait()

def burns(event):
    re.match("(a+)+$", "a" * 64 + "b")

def counts(event):
    while True: pass

def dives(event, depth=500):
    return dives(event, depth - 1) if depth else sleeps(event)

async def awaits(event):
    await asyncio.Event().wait()

def quick(event):
    pass

def fails(event):
    raise LookupError

def handle(function):
    Handler("order.created", function, None, None)(Event(type="order.created", id="4711"))

{body}
"""


def run(body: str, *, grace: float = 20) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body, grace=grace)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def sentence(name: str) -> str:
    return (
        f'OUTBOX["HANDLER_TIMEOUT"] ended the process: handler __main__.{name} with event 4711 (order.created) took '
        f"longer than 0.2 s. The message is delivered again after the next start, MAX_DELIVERIES times at most."
    )


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What faulthandler's timer was told, instead of telling it."""
    told: list[Any] = []
    monkeypatch.setattr(
        faulthandler, "dump_traceback_later", lambda seconds, **options: told.append((seconds, options))
    )
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: told.append("cancelled"))
    return told


# In time


def test_the_log_record_says_which_event_it_was() -> None:
    ended = run('import logging; logging.basicConfig(format="%(action)s: %(event_id)s, %(attempt)s")\nhandle(sleeps)')
    assert "timeout: 4711, 0" in ended.stderr


def test_in_time_the_result_is_returned_and_nothing_stays_armed(timer: list[Any]) -> None:
    armed = []
    assert call_within(600, "it", lambda a, b: (armed.append(deadline._in_hand), a + b)[1], 1, 2) == 3
    assert armed[0] is not None
    assert deadline._in_hand is None
    assert [each if each == "cancelled" else each[0] for each in timer] == [600 + deadline.GRACE_SECONDS, "cancelled"]
    assert timer[0][1]["exit"] is True


@pytest.mark.parametrize("error", [LookupError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_after_an_exception_nothing_stays_armed(timer: list[Any], error: BaseException) -> None:
    def fails() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        call_within(600, "it", fails)
    assert raised.value is error
    assert deadline._in_hand is None
    assert timer[-1] == "cancelled"


def test_nothing_stays_armed_if_the_timer_cannot_be_set(monkeypatch: pytest.MonkeyPatch, timer: list[Any]) -> None:
    def fails(*args: Any, **options: Any) -> None:
        raise RuntimeError("unable to start watchdog thread")

    monkeypatch.setattr(faulthandler, "dump_traceback_later", fails)
    with pytest.raises(RuntimeError, match="watchdog"):
        call_within(600, "it", lambda: None)
    assert deadline._in_hand is None
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


def test_process_lives_on_after_handlers_that_were_in_time() -> None:
    program = run(
        "handle(quick)\n"
        "try: handle(fails)\n"
        "except LookupError: pass\n"
        "threading.Event().wait(1.5)  # longer than both would take to end it\n"
        "print('alive')",
        grace=0.5,
    )
    assert (program.returncode, program.stdout, program.stderr) == (0, "alive\n", "")


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
    monkeypatch.setattr(deadline, "_watchdog", gone)
    call_within(600, "it", lambda: None)
    assert deadline._watchdog is not gone
    assert deadline._watchdog is not None
    first = deadline._watchdog
    call_within(600, "it", lambda: None)
    assert deadline._watchdog is first
    assert first.is_alive()


# Too late


@pytest.mark.parametrize(
    ("name", "stood_in"), [("sleeps", "sleeps"), ("awaits", "_run_once"), ("counts", "counts"), ("dives", "sleeps")]
)
def test_handler_that_takes_too_long_ends_the_process_and_the_log_says_which(name: str, stood_in: str) -> None:
    program = run(f"handle({name})")
    assert program.returncode == 1
    assert program.stderr.startswith(sentence(name) + "\n")
    assert f" in {stood_in}\n" in program.stderr


def test_handler_that_keeps_the_interpreter_to_itself_ends_the_process_and_the_stack_says_which() -> None:
    program = run("handle(burns)", grace=0.5)
    assert program.returncode == 1
    assert program.stderr.startswith("Timeout (0:00:00.700000)!\n")
    assert "in burns\n" in program.stderr
    assert f"in {sentence('burns')}\n" in program.stderr


@pytest.mark.parametrize("stderr", ["io.StringIO()", "None"])
@pytest.mark.parametrize("name", ["sleeps", "burns"])
def test_it_works_where_stderr_is_no_file(name: str, stderr: str) -> None:
    program = run(f"sys.stderr = {stderr}\nhandle({name})", grace=0.5)
    assert program.returncode == 1
    assert sentence(name) in program.stderr


def test_a_log_that_blocks_does_not_keep_the_process_alive() -> None:
    program = run(
        "import logging\n"
        "class Blocks(logging.Handler):\n"
        "    def emit(self, record): threading.Event().wait()\n"
        "logging.getLogger('django_outbox').addHandler(Blocks())\n"
        "handle(sleeps)",
        grace=0.5,
    )
    assert program.returncode == 1
    assert sentence("sleeps") in program.stderr


def test_stderr_s_own_file_is_used_where_it_has_one(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "errors.log").open("w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        assert deadline._stderr() == file.fileno()
    assert deadline._stderr() == 2  # closed
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert deadline._stderr() == 2
