"""What is kept of a failure: a row with its text, its place in the code and who met it."""

from __future__ import annotations

import linecache
import os
import re
import socket
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from functools import cache
from pathlib import Path, PurePath
from types import CodeType, FrameType
from typing import Any, NamedTuple

from django_outbox.exceptions import Reject, Retry, handlers_of, text_of
from django_outbox.models.lengths import ERROR_LENGTH, FINGERPRINT_LENGTH, WORKER_LENGTH
from django_outbox.models.operations import MessageFailure
from django_outbox.models.validation import clean_text

Stage = MessageFailure.Stage

INNERMOST_CALLS = 3
LONGEST_NAME = 100
LONGEST_LINE = 100

_PACKAGE = f"{Path(__file__).parent.parent}{os.sep}"
_STANDARD_LIBRARY = tuple(
    f"{path}{os.sep}"
    for path in (Path(os.__file__).parent, sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
)
_INSTALLED = ("site-packages", "dist-packages")

# Top-level packages whose frames say how a handler was called, or what it called; not what is wrong.
_FOREIGN = frozenset({"django", "asgiref", *sys.stdlib_module_names})
_VALUES = re.compile(r"'[^']*'|\"[^\"]*\"|\d+")


@cache
def host() -> str:
    """The name of this machine."""
    return socket.gethostname()[: WORKER_LENGTH - 16]


def worker_name() -> str:
    """This process, as operators know it."""
    return f"{host()}:{os.getpid()}"


class Call(NamedTuple):
    """A function in a traceback, and the line that it had reached. ``file`` is that of its module."""

    module: str
    code: CodeType
    line: int
    file: str

    @property
    def is_of_the_project(self) -> bool:
        """True unless the file belongs to the outbox, to an installed package or to Python itself."""
        if self.file.startswith(("<", _PACKAGE, *_STANDARD_LIBRARY)):
            return False
        return not any(name in PurePath(self.file).parts for name in _INSTALLED)

    @property
    def function(self) -> str:
        return f"{self.module}.{self.code.co_qualname}"

    @property
    def place(self) -> str:
        """The file as its module is imported, without the directories of this machine, the line and the function."""
        path = PurePath(self.code.co_filename)
        parts = self.module.count(".") + 1 + path.name.startswith("__init__.")
        file = "/".join(path.parts[-parts:])
        return f'"{file[-LONGEST_NAME:]}", line {self.line}, in {self.code.co_name[:LONGEST_NAME]}'

    def __str__(self) -> str:
        source = linecache.getline(self.code.co_filename, self.line).strip()
        return f"  File {self.place}" + (f"\n    {source[:LONGEST_LINE]}" if source else "")


def error_text(error: BaseException | str, length: int = ERROR_LENGTH) -> str:
    """What is kept of an error: at most 2000 characters that every database can store."""
    # A handler's own words need no place in the code.
    text = text_of(error) if isinstance(error, (str, Reject, Retry)) else _describe(error, length)
    return clean_text(text)[:length]


def place_of(error: BaseException | str) -> str:
    """Where in the project's code an error arose, for a log line; empty if it did not, or is a handler's own words."""
    if isinstance(error, (str, Reject, Retry)):
        return ""
    own = _own(_calls(error))
    return own.place if own else handlers_of(error)


def _describe(error: BaseException, length: int) -> str:
    """The error's class and text, then the innermost calls and the project's innermost one, which are never cut off."""
    head = "".join(traceback.format_exception_only(error)).rstrip()
    calls = _calls(error)
    own, shown = _own(calls), calls[-INNERMOST_CALLS:]
    if own is not None and own not in shown:
        shown = [own, *shown]
    where = [str(call) for call in shown]
    if own is None and (names := handlers_of(error)):
        where.append(f"Handler: {names[:FINGERPRINT_LENGTH]}")
    tail = "\n".join(where)
    return f"{head[: max(length - len(tail) - 2, 0)]}\n\n{tail}" if tail else head


def _calls(error: BaseException) -> list[Call]:
    """The traceback, outermost first, without the outbox's own functions."""
    return [
        Call(str(frame.f_globals.get("__name__", "")), frame.f_code, line, _file_of(frame))
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not frame.f_code.co_filename.startswith(_PACKAGE)
    ]


def _file_of(frame: FrameType) -> str:
    """The file of the module. That of the code is relative in compiled extensions, wherever these are installed."""
    file = frame.f_code.co_filename
    return file if file.startswith("<") or Path(file).is_absolute() else str(frame.f_globals.get("__file__") or file)


def _own(calls: list[Call]) -> Call | None:
    """The innermost function of the project."""
    return next((call for call in reversed(calls) if call.is_of_the_project), None)


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
    """The project's innermost function; without one, the handler, or the innermost function of an installed package."""
    calls = _calls(error)
    own = _own(calls)
    if own is not None:
        return own.function
    return handlers_of(error) or _foreign_place(calls)


def _foreign_place(calls: list[Call]) -> str:
    """The innermost function of the first package that is not Django or Python itself, else of any."""
    roots = [call.module.partition(".")[0] for call in calls]
    first = next((root for root in roots if root not in _FOREIGN), None)
    for call, root in reversed(list(zip(calls, roots, strict=True))):
        if first in (root, None):
            return call.function
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
