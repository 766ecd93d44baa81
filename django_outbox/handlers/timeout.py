"""Ends the process if a handler or mapper runs too long."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

log = logging.getLogger(__name__)

CHECK_SECONDS = 0.25
GRACE_SECONDS = 1.0

_current: tuple[float, str, Mapping[str, object]] | None = None
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

    A process has one such timer: the code overrides other uses of ``faulthandler.dump_traceback_later``, and only one
    call at a time has a timeout.

    Args:
        subject: what is called, for the log sentence.
        about: attributes of the log record.
    """
    global _current, _thread
    sentence = (
        f'OUTBOX["HANDLER_TIMEOUT"] ended the process: {subject} took longer than {seconds:g} s. '
        f"The message is delivered again after the next start, MAX_DELIVERIES times at most."
    )
    call = FunctionType(_call.__code__.replace(co_name=sentence, co_qualname=sentence), {})
    try:
        if _thread is None or not _thread.is_alive():  # a thread does not survive a fork
            _thread = threading.Thread(target=_check_forever, name="outbox-deadline", daemon=True)
            _thread.start()
        faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True, file=_stderr())
        _current = (time.monotonic() + seconds, sentence, {"action": "timeout", **(about or {})})
        return call(function, arguments)
    except BaseException as error:
        # Remove the function with the unusual name from tracebacks of ordinary errors.
        while error.__traceback__ and error.__traceback__.tb_frame.f_code in (call_within.__code__, call.__code__):
            error.__traceback__ = error.__traceback__.tb_next
        raise
    finally:
        _current = None
        faulthandler.cancel_dump_traceback_later()


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments)


def _check_forever() -> None:
    while True:
        current = _current
        left = CHECK_SECONDS if current is None else current[0] - time.monotonic()
        if current is not None and left <= 0:
            log.critical(current[1], extra=current[2])
            faulthandler.dump_traceback(_stderr())
            os._exit(1)
        time.sleep(min(left, CHECK_SECONDS))


def _stderr() -> int:
    """Return the file descriptor of ``sys.stderr``, or 2 if it has none, as under some servers."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # None, without a descriptor, or closed
        return 2
