"""Hiding secret values of payloads and headers, and of errors that repeat them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from django_outbox.conf import settings
from django_outbox.models import ERROR_LENGTH

MASK = "\N{BULLET}" * 6
SHORT = 4
_NOT_A_WORD = re.compile(r"[\W_]+")


class Redaction:
    """Which values one reader must not see.

    Args:
        names: a value is secret if the name that it has, in whatever case and with whatever
            between its words, contains one of these: ``api_key`` hides ``X-Api-Key`` and ``apiKey``.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = [plain for name in names if (plain := _plain(name))]

    def is_secret(self, name: str) -> bool:
        plain = _plain(name)
        return any(secret in plain for secret in self._names)

    def mask(self, value: Any) -> Any:
        """The value with all that is secret in it replaced."""
        if isinstance(value, dict):
            return {name: MASK if self.is_secret(name) else self.mask(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self.mask(item) for item in value]
        return value

    def mask_text(self, text: str, *sources: Any) -> str:
        """A text without the secret values of some payloads and headers."""
        secrets = {form for source in sources for secret in self._secrets(source) for form in _forms(secret)}
        # Of a large payload hardly anything is in an error, and to look for it thoroughly would take minutes.
        for secret in sorted((secret for secret in secrets if secret in text), key=len, reverse=True):
            # Of a short one not every mention is meant: 123 is not in 41234.
            pattern = re.escape(secret) if len(secret) >= SHORT else rf"(?<!\w){re.escape(secret)}(?!\w)"
            text = re.sub(pattern, MASK, text)
        return _without_cut_secret(text, secrets) if len(text) >= ERROR_LENGTH - SHORT else text

    def _secrets(self, value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            for name, item in value.items():
                yield from _scalars(item) if self.is_secret(name) else self._secrets(item)
        elif isinstance(value, list):
            for item in value:
                yield from self._secrets(item)


SEES_ALL = Redaction(())


def redaction_for(user: Any, model_name: str) -> Redaction:
    """What this user must not see of messages of a model."""
    if user.has_perm(f"django_outbox.see_payload_{model_name}"):
        return SEES_ALL
    return Redaction(settings.redact)


def _plain(name: str) -> str:
    return _NOT_A_WORD.sub("", name).lower()


def _scalars(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _scalars(item)
    elif isinstance(value, list):
        for item in value:
            yield from _scalars(item)
    elif value is not None and not isinstance(value, bool):
        yield value


def _forms(secret: Any) -> Iterator[str]:
    """How a value may stand in an error: as it is, as JSON or Python write it, and its words."""
    text = str(secret)
    forms = {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1]}
    forms |= {word for word in text.split() if len(word) >= 2 * SHORT}
    yield from (form for form in forms if form.strip())


def _without_cut_secret(text: str, secrets: Iterable[str]) -> str:
    """Hide what is left of a secret at the end of an error that was cut there."""
    longest = max(
        (
            length
            for secret in secrets
            if secret[:SHORT] in text[-len(secret) :]
            for length in range(SHORT, min(len(secret), len(text) + 1))
            if text.endswith(secret[:length])
        ),
        default=0,
    )
    return text[: len(text) - longest] + MASK if longest else text
