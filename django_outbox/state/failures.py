"""Failures: their text, their fingerprint and their rows."""

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
from types import CodeType
from typing import NamedTuple

from django_outbox.exceptions import Reject, Retry, handlers_of, text_of
from django_outbox.models import InboxMessage, MessageFailure, OutboxMessage
from django_outbox.models.lengths import ERROR_LENGTH, FINGERPRINT_LENGTH, WORKER_LENGTH
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
_INSTALLED = {"site-packages", "dist-packages"}

# Top-level packages that say how code was called, not what is wrong with it.
_FOREIGN = frozenset({"django", "asgiref", *sys.stdlib_module_names})
_VALUES = re.compile(r"'[^']*'|\"[^\"]*\"|\d+")


@cache
def host() -> str:
    """The name of this machine."""
    return socket.gethostname()[: WORKER_LENGTH - 16]


def worker_name() -> str:
    """The host and process id that operators see for this process."""
    return f"{host()}:{os.getpid()}"


def is_installed(path: str) -> bool:
    """True for a file or folder of an installed package, not of the project."""
    return not _INSTALLED.isdisjoint(PurePath(path).parts)


class Call(NamedTuple):
    """A function in a traceback and its current line; ``file`` is the file of its module."""

    module: str
    code: CodeType
    line: int
    file: str

    @property
    def is_of_the_project(self) -> bool:
        """True unless the file belongs to the outbox, an installed package or Python."""
        if self.file.startswith(("<", _PACKAGE, *_STANDARD_LIBRARY)):
            return False
        return not is_installed(self.file)

    @property
    def function(self) -> str:
        return f"{self.module}.{self.code.co_qualname}"

    @property
    def place(self) -> str:
        """The file relative to its top-level package, the line and the function."""
        path = PurePath(self.code.co_filename)
        parts = self.module.count(".") + 1 + path.name.startswith("__init__.")
        file = "/".join(path.parts[-parts:])
        return f'"{file[-LONGEST_NAME:]}", line {self.line}, in {self.code.co_name[:LONGEST_NAME]}'

    def __str__(self) -> str:
        source = linecache.getline(self.code.co_filename, self.line).strip()
        return f"  File {self.place}" + (f"\n    {source[:LONGEST_LINE]}" if source else "")


def error_text(error: BaseException | str, length: int = ERROR_LENGTH) -> str:
    """The text of an error for ``last_error``; at most 2000 characters that every database can store."""
    # A handler's own reason needs no traceback.
    text = text_of(error) if isinstance(error, (str, Reject, Retry)) else _describe(error, length)
    return clean_text(text)[:length]


def place_of(error: BaseException | str) -> str:
    """The place in the project's code where an error was raised, for a log line; empty if there is none."""
    if isinstance(error, (str, Reject, Retry)):
        return ""
    own = _own(_calls(error))
    return own.place if own else handlers_of(error)


def _describe(error: BaseException, length: int) -> str:
    """The class and text of an error, then the innermost calls and the project's innermost call, never cut off."""
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
    """The calls of the traceback, outermost first, without this package's own."""
    calls = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        file, names = frame.f_code.co_filename, frame.f_globals
        if file.startswith(_PACKAGE):
            continue
        if not file.startswith("<") and not Path(file).is_absolute():  # compiled extensions have relative names
            file = str(names.get("__file__") or file)
        calls.append(Call(str(names.get("__name__", "")), frame.f_code, line, file))
    return calls


def _own(calls: list[Call]) -> Call | None:
    """The project's innermost call."""
    return next((call for call in reversed(calls) if call.is_of_the_project), None)


def fingerprint(error: BaseException | str) -> str:
    """The same text for failures with the same cause: the exception's class and the function that raised it.

    Without line and file, it stays the same across releases and machines. For a text, or a ``Reject`` or ``Retry``
    that no handler raised, it is the first line with numbers and quoted values masked.
    """
    place = "" if isinstance(error, str) else _function_of(error)
    if isinstance(error, str) or (isinstance(error, (Reject, Retry)) and not place):
        first_line = text_of(error).strip().split("\n", 1)[0].replace("\0", "")
        text = _VALUES.sub(lambda value: "#" if value[0].isdigit() else "'…'", first_line)
    else:
        kind = type(error)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        text = f"{name} in {place}" if place else name
    return text.encode("utf-8", "replace").decode("utf-8")[:FINGERPRINT_LENGTH]


def _function_of(error: BaseException) -> str:
    """The project's innermost function, or the handlers, or the innermost function of an installed package.

    Of packages, that of the first one other than Django and Python, else of any.
    """
    calls = _calls(error)
    if own := _own(calls):
        return own.function
    if names := handlers_of(error):
        return names
    roots = [call.module.partition(".")[0] for call in calls]
    first = next((root for root in roots if root not in _FOREIGN), None)
    return next((call.function for call in reversed(calls) if first in (None, call.module.partition(".")[0])), "")


def columns(error: BaseException | str) -> dict[str, str]:
    """Values for the columns that a message and its failure share."""
    return {"last_error": error_text(error), "fingerprint": fingerprint(error)}


def stage_of(message: OutboxMessage | InboxMessage) -> str:
    """Where a message in this state fails: the relay cannot send it, or its handler raises."""
    is_to_be_sent = isinstance(message, OutboxMessage) and message.status == OutboxMessage.Status.PENDING
    return Stage.SEND if is_to_be_sent else Stage.HANDLE


def attempt_of(message: OutboxMessage | InboxMessage) -> int:
    """The number of the publication (outbox) or try (inbox) that fails for a message in this state."""
    if isinstance(message, InboxMessage):
        return message.retry_count + 1
    return message.publish_count + (stage_of(message) == Stage.SEND)


def record(messages: Iterable[OutboxMessage | InboxMessage], *, stage: str, attempt: int, using: str) -> None:
    """Write a failure for each message, in the transaction that writes the messages.

    ``stage`` and ``attempt`` are of the messages before the failure.
    """
    rows = []
    for message in messages:
        row = MessageFailure(
            worker=worker_name(),
            stage=stage,
            attempt=attempt,
            final=message.status == OutboxMessage.Status.DEAD,
            error=message.last_error,
            fingerprint=message.fingerprint,
        )
        if isinstance(message, InboxMessage):
            row.inbox_message_id = message.id
        else:
            row.message_id = message.id
            if stage == Stage.HANDLE:
                row.published_at, row.partition, row.offset = message.published_at, message.partition, message.offset
        rows.append(row)
    MessageFailure.objects.using(using).bulk_create(rows)
