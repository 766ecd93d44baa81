"""Users and passwords of this process's brokers, to mask them in texts of libraries and brokers."""

from __future__ import annotations

import re
from typing import Self

_SHORT = 8


class Secret(str):
    """Text that is not shown in a repr, and that ``masked`` hides from now on."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        keep(text)
        return super().__new__(cls, text)

    def __repr__(self) -> str:
        return "'***'"


_secrets: set[str] = set()


def keep(*texts: str | None) -> None:
    """Let ``masked`` hide these texts from now on; None and "" are ignored."""
    _secrets.update(text for text in texts if text)


def masked(text: str) -> str:
    """The text without the secrets that it may contain."""
    for secret in sorted(_secrets, key=len, reverse=True):
        if secret in text:
            # A short secret may be part of an unrelated word.
            pattern = re.escape(secret) if len(secret) >= _SHORT else rf"(?<!\w){re.escape(secret)}(?!\w)"
            text = re.sub(pattern, "***", text)
    return text
