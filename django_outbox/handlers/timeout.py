"""Ends the process when a handler or mapper runs for too long, whatever it does."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import FunctionType, MappingProxyType
from typing import Any

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
GRACE_SECONDS = 1.0
_NOTHING: Mapping[str, object] = MappingProxyType({})


def call_within(
    seconds: float, subject: str, function: Callable[..., Any], *arguments: Any, about: Mapping[str, object] = _NOTHING
) -> Any:
    """Call a function; if it takes longer than this, say so and end the process with exit code 1.

    A thread of Python's says it in the log and ends the process. It cannot while C code, such as a
    regular expression, keeps the interpreter to itself. So a timer of faulthandler's, which needs no
    interpreter, ends the process a second later; all it can write is the stack, and there
    the sentence stands as the name of a function.

    There is one timer in a process: whatever else was to use ``faulthandler.dump_traceback_later``
    loses it, and only one call at a time is watched.

    Args:
        seconds: what the call may take.
        subject: what is called, for the sentence.
        function: what is called, with ``arguments``.
        about: what the log record has beside the sentence.
    """
    sentence = (
        f'OUTBOX["HANDLER_TIMEOUT"] ended the process: {subject} took longer than {seconds:g} s. '
        f"The message is delivered again after the next start, MAX_DELIVERIES times at most."
    )
    call = FunctionType(_call.__code__.replace(co_name=sentence, co_qualname=sentence), {})
    try:
        _watch(seconds, sentence, about)
        return call(function, arguments)
    except BaseException as error:
        # Whoever reads the traceback of an ordinary error need not see the function with the strange name.
        while error.__traceback__ and error.__traceback__.tb_frame.f_code in (call_within.__code__, call.__code__):
            error.__traceback__ = error.__traceback__.tb_next
        raise
    finally:
        _unwatch()


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments)


_in_hand: tuple[float, str, Mapping[str, object]] | None = None
_watchdog: threading.Thread | None = None


def _watch(seconds: float, sentence: str, about: Mapping[str, object]) -> None:
    global _in_hand, _watchdog
    if _watchdog is None or not _watchdog.is_alive():  # after a fork it is not
        _watchdog = threading.Thread(target=_look, name="outbox-deadline", daemon=True)
        _watchdog.start()
    faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True, file=_stderr())
    _in_hand = (time.monotonic() + seconds, sentence, about)


def _unwatch() -> None:
    global _in_hand
    _in_hand = None
    faulthandler.cancel_dump_traceback_later()


def _look() -> None:
    while True:
        in_hand = _in_hand
        left = LOOK_SECONDS if in_hand is None else in_hand[0] - time.monotonic()
        if in_hand is not None and left <= 0:
            log.critical(in_hand[1], extra={"action": "timeout", **in_hand[2]})
            faulthandler.dump_traceback(_stderr())
            os._exit(1)
        time.sleep(min(left, LOOK_SECONDS))


def _stderr() -> int:
    """Where faulthandler is to write. Without a file behind ``sys.stderr``, as under some servers, the usual one."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # None; io.UnsupportedOperation is both others; closed
        return 2
