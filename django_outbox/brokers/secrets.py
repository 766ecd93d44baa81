"""Users and passwords of this process's brokers: kept to be taken out of what libraries and brokers say."""

from __future__ import annotations

import re

_SHORT = 8


class Secret(str):
    """Text that a repr does not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


_secrets: set[str] = set()


def keep(*texts: str | None) -> None:
    """Have texts hidden from now on, wherever ``masked`` is used; None and "" are passed over."""
    _secrets.update(text for text in texts if text)


def masked(text: str) -> str:
    """A text for people, without the secrets that it may repeat."""
    for secret in sorted(_secrets, key=len, reverse=True):
        if secret in text:
            # A short one may be part of a word that has nothing to do with it.
            pattern = re.escape(secret) if len(secret) >= _SHORT else rf"(?<!\w){re.escape(secret)}(?!\w)"
            text = re.sub(pattern, "***", text)
    return text
