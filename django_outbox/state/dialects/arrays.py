"""Array literals of PostgreSQL. Its driver takes ten times as long to write a list."""

from __future__ import annotations

from collections.abc import Iterable


def array(numbers: Iterable[int | None]) -> str:
    """An array literal of numbers."""
    return f"{{{str(list(numbers))[1:-1].replace('None', 'NULL')}}}"


def text_array(texts: Iterable[str]) -> str:
    """An array literal of texts."""
    escaped = '","'.join([text.replace("\\", "\\\\").replace('"', '\\"') for text in texts])
    return f'{{"{escaped}"}}'


def nullable_text_array(texts: Iterable[str | None]) -> str:
    """An array literal of texts, some of which are NULL."""
    items = ",".join(["NULL" if text is None else text_array([text])[1:-1] for text in texts])
    return f"{{{items}}}"


def hexadecimal(value: bytes | None) -> str | None:
    return None if value is None else f"\\x{value.hex()}"
