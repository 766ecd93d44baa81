"""Ends the process if a handler or mapper runs too long."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from operator import attrgetter
from types import FunctionType
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

CHECK_SECONDS = 0.25
GRACE_SECONDS = 1.0


class _Call(NamedTuple):
    deadline: float  # of time.monotonic()
    sentence: str
    about: Mapping[str, object]


_calls: dict[int, _Call] = {}  # by the thread's identifier
_lock = threading.Lock()
_thread: threading.Thread | None = None


def call_within(
    seconds: float,
    subject: str,
    function: Callable[..., Any],
    *arguments: Any,
    about: Mapping[str, object] | None = None,
) -> Any:
    """Call a function; if it takes longer, log that and end the process with exit code 1.

    A thread logs it and ends the process, unless C code such as a regular expression holds the interpreter lock. Then
    a timer of ``faulthandler`` ends the process a second later. It can only write the stack, so the log sentence is
    the name of a function there.

    A process has one such timer: it is set to the first deadline of all threads, and overrides other uses of
    ``faulthandler.dump_traceback_later``. A thread has one call at a time.

    Args:
        subject: what is called, for the log sentence.
        about: attributes of the log record.
    """
    global _thread
    sentence = (
        f'OUTBOX["HANDLER_TIMEOUT"] ended the process: {subject} took longer than {seconds:g} s. '
        f"The message is delivered again after the next start, MAX_DELIVERIES times at most."
    )
    call = FunctionType(_call.__code__.replace(co_name=sentence, co_qualname=sentence), {})
    thread = threading.get_ident()
    try:
        with _lock:
            if _thread is None:
                _thread = threading.Thread(target=_check_forever, name="outbox-deadline", daemon=True)
                _thread.start()
            call_now = _Call(time.monotonic() + seconds, sentence, {"action": "timeout", **(about or {})})
            _calls[thread] = call_now
            if _first() is call_now:
                _set_timer(seconds)
        return call(function, arguments)
    except BaseException as error:
        # Remove the function with the unusual name from tracebacks of ordinary errors.
        while error.__traceback__ and error.__traceback__.tb_frame.f_code in (call_within.__code__, call.__code__):
            error.__traceback__ = error.__traceback__.tb_next
        raise
    finally:
        with _lock:
            was_first = _first()
            if _calls.pop(thread, None) is was_first:
                following = _first()
                _set_timer(None if following is None else max(0.0, following.deadline - time.monotonic()))


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments)


def _first() -> _Call | None:
    return min(_calls.values(), key=attrgetter("deadline"), default=None)


def _forget() -> None:
    """After a fork: the other threads are not in this process, and one of them may have had the lock."""
    global _lock, _thread
    _lock, _thread = threading.Lock(), None
    _calls.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget)


def _set_timer(seconds: float | None) -> None:
    """Have ``faulthandler`` end the process soon after the first deadline; None if there is none."""
    if seconds is None:
        faulthandler.cancel_dump_traceback_later()
    else:
        faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True, file=_stderr())


def _check_forever() -> None:
    while True:
        with _lock:
            first = _first()
        left = CHECK_SECONDS if first is None else first.deadline - time.monotonic()
        if first is not None and left <= 0:
            log.critical(first.sentence, extra=first.about)
            faulthandler.dump_traceback(_stderr())
            os._exit(1)
        time.sleep(min(left, CHECK_SECONDS))


def _stderr() -> int:
    """Return the file descriptor of ``sys.stderr``, or 2 if it has none, as under some servers."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # None, without a descriptor, or closed
        return 2
