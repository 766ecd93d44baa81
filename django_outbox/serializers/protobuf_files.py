"""Files of Protobuf messages, and the indexes by which a value of the registry's format names its message in one."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto

Indexes = tuple[int, ...]
"""Where a message is in its file: its number there, or that of the message around it and its number in that."""

_IGNORED = re.compile(r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\s+""", re.DOTALL)
_STATEMENT = re.compile(r"([^{};]*)([{};])")
_FIRST: Indexes = (0,)
_DEEPEST = 100
_LONGEST_VARINT = 10


def text_of(descriptor: Descriptor) -> str:
    """Return the file of a message, as ``confluent_kafka`` registers it.

    Raises:
        ImproperlyConfigured: it imports others.
    """
    for used in descriptor.file.dependencies:
        if not used.name.startswith("google/"):
            raise ImproperlyConfigured(
                f"{descriptor.file.name} imports {used.name}; only imports of google/ are supported."
            )
    file = FileDescriptorProto()
    descriptor.file.CopyToProto(file)
    return base64.b64encode(file.SerializeToString()).decode()


def names_in(text: str) -> dict[Indexes, str]:
    """Return the full names of the messages of a file, as descriptors or as ``.proto`` text; empty if it is neither."""
    file = _file_of(text)
    if file is None:
        return _names_in_source(text)
    return dict(_names(file.message_type, (), f"{file.package}." if file.package else ""))


def _names_in_source(text: str) -> dict[Indexes, str]:
    """Some registries return the text that was registered, whose blocks tell where each message is."""
    package = ""
    names: dict[Indexes, str] = {}
    blocks: list[Indexes | None] = [()]  # around a statement; None for those that are not messages
    for statement, end in _STATEMENT.findall(_IGNORED.sub(" ", text)):
        keyword, _, name = statement.strip().partition(" ")
        outer = blocks[-1]
        if end == "}":
            del blocks[max(1, len(blocks) - 1) :]
        elif keyword == "package":
            package = f"{name.strip()}."
        elif end == "{" and keyword == "message" and outer is not None:
            indexes = (*outer, sum(each[:-1] == outer for each in names))
            names[indexes] = f"{names[outer]}.{name.strip()}" if outer else package + name.strip()
            blocks.append(indexes)
        elif end == "{":
            blocks.append(None)
    return names


def _names(messages: Any, outer: Indexes, prefix: str) -> Iterator[tuple[Indexes, str]]:
    for number, message in enumerate(messages):
        indexes = (*outer, number)
        yield indexes, prefix + message.name
        yield from _names(message.nested_type, indexes, f"{prefix}{message.name}.")


def readable(text: str) -> str | None:
    """Return a file in lines, without what only some compilers write into it; None if it is ``.proto`` text."""
    file = _file_of(text)
    if file is None:
        return None
    file.ClearField("name")
    file.ClearField("source_code_info")
    messages = list(file.message_type)
    while messages:
        message = messages.pop()
        messages.extend(message.nested_type)
        for field in message.field:
            field.ClearField("json_name")
    return str(text_format.MessageToString(file))


def _file_of(text: str) -> Any:
    file = FileDescriptorProto()
    try:
        file.ParseFromString(base64.b64decode(text, validate=True))
    except Exception:  # of several kinds
        return None
    return file


def indexes_of(descriptor: Descriptor) -> Indexes:
    indexes: Indexes = ()
    current: Descriptor | None = descriptor
    while current is not None:
        outer = current.containing_type
        siblings = outer.nested_types if outer is not None else current.file.message_types_by_name.values()
        indexes = ([each.full_name for each in siblings].index(current.full_name), *indexes)
        current = outer
    return indexes


def encoded(indexes: Indexes) -> bytes:
    """Return a count and indexes, as zigzag varints; ``b"\\0"`` for the first message."""
    if indexes == _FIRST:
        return b"\0"
    return b"".join(_varint(number * 2) for number in (len(indexes), *indexes))


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def decoded(data: bytes) -> tuple[Indexes, int]:
    """Return the indexes that data begins with, and where they end.

    Raises:
        ValueError: they are cut short, or not valid.
    """
    count, end = _number(data, 0)
    if count == 0:
        return _FIRST, end
    if not 0 < count <= _DEEPEST:
        raise ValueError("it does not begin with the indexes of a message")
    indexes = []
    for _ in range(count):
        index, end = _number(data, end)
        indexes.append(index)
    return tuple(indexes), end


def _number(data: bytes, start: int) -> tuple[int, int]:
    """A zigzag varint, and where it ends."""
    number = 0
    for place, byte in enumerate(data[start : start + _LONGEST_VARINT]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number >> 1 ^ -(number & 1), start + place + 1
    raise ValueError("it does not begin with the indexes of a message")
