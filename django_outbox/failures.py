"""What is kept of a failure: a row with its text, its place in the code and who met it."""

from __future__ import annotations

import os
import re
import socket
import sys
import traceback
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from django_outbox.exceptions import Reject, Retry
from django_outbox.faults import text_of
from django_outbox.models import ERROR_LENGTH
from django_outbox.operations import FINGERPRINT_LENGTH, WORKER_LENGTH, MessageFailure
from django_outbox.storable import storable_text

Stage = MessageFailure.Stage

INNERMOST_CALLS = 3

_PACKAGE = f"{Path(__file__).parent}{os.sep}"

# Top-level packages whose frames say how a handler was called, or what it called; not what is wrong.
_FOREIGN = frozenset({"django_outbox", "django", "asgiref", *sys.stdlib_module_names})
_VALUES = re.compile(r"'[^']*'|\"[^\"]*\"|\d+")


@cache
def host() -> str:
    """The name of this machine."""
    return socket.gethostname()[: WORKER_LENGTH - 16]


def worker_name() -> str:
    """This process, as operators know it."""
    return f"{host()}:{os.getpid()}"


def error_text(error: BaseException | str) -> str:
    """What is kept of an error: at most 2000 characters that every database can store."""
    # A handler's own words need no place in the code.
    text = text_of(error) if isinstance(error, (str, Reject, Retry)) else _describe(error)
    return storable_text(text)[:ERROR_LENGTH]


def _describe(error: BaseException) -> str:
    """The error's class and text and, for those who mend it, the innermost calls."""
    head = "".join(traceback.format_exception_only(error)).rstrip()
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_PACKAGE)]
    if not frames:
        return head
    return f"{head}\n\n{''.join(traceback.format_list(frames[-INNERMOST_CALLS:])).rstrip()}"


def fingerprint(error: BaseException | str) -> str:
    """What failures of one cause have in common: the exception's class and its place in the code.

    The place is a function, without line or file, so that it stays the same from one release or
    machine to the next. Of a mere text it is the first line, without what differs each time:
    numbers and quoted values. The same of a rejection or retry that no handler asked for.
    """
    place = "" if isinstance(error, str) else _place(error)
    if isinstance(error, str) or (isinstance(error, (Reject, Retry)) and not place):
        first_line = text_of(error).strip().split("\n", 1)[0].replace("\0", "")
        text = _VALUES.sub(lambda value: "#" if value[0].isdigit() else "'…'", first_line)
    else:
        kind = type(error)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        text = f"{name} in {place}" if place else name
    return text.encode("utf-8", "replace").decode("utf-8")[:FINGERPRINT_LENGTH]


def _place(error: BaseException) -> str:
    """The innermost function of the handler's own package, else of any other but this one."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [str(frame.f_globals.get("__name__", "")) for frame in frames]
    roots = [module.partition(".")[0] for module in modules]
    own = next((root for root in roots if root not in _FOREIGN), None)
    for frame, module, root in reversed(list(zip(frames, modules, roots, strict=True))):
        if root == own or (own is None and root != "django_outbox"):
            return f"{module}.{frame.f_code.co_qualname}"
    return ""


def record(
    message: Any, stage: str, error: BaseException | str, text: str, *, final: bool, using: str
) -> MessageFailure:
    """Write the row of a failure; in the transaction that counts it.

    Args:
        message: of the outbox, as it was before.
        stage: where it failed; what could not be sent has not been published yet.
        error: for its fingerprint.
        text: what is kept of the error itself.
        final: True if the message is dead by it.
        using: alias of the database.
    """
    sent = stage == Stage.HANDLE
    return MessageFailure.objects.using(using).create(
        message_id=message.id,
        worker=worker_name(),
        stage=stage,
        attempt=message.publish_count + (not sent),
        published_at=message.published_at if sent else None,
        partition=message.partition if sent else None,
        offset=message.offset if sent else None,
        final=final,
        error=text,
        fingerprint=fingerprint(error),
    )


def record_received(received: Iterable[Any], attempt: int, *, using: str) -> None:
    """Write the rows of failures of the inbox; in the transaction that writes its messages.

    Args:
        received: messages as they are after the failure.
        attempt: which try of theirs it was, from 1.
        using: alias of the database.
    """
    MessageFailure.objects.using(using).bulk_create(
        MessageFailure(
            inbox_message_id=message.id,
            worker=worker_name(),
            stage=Stage.HANDLE,
            attempt=attempt,
            final=message.status == "dead",
            error=message.last_error,
            fingerprint=message.fingerprint,
        )
        for message in received
    )
