"""Hiding secret values of payloads and headers, and of errors that repeat them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from django_outbox.conf import settings
from django_outbox.models.lengths import ERROR_LENGTH
from django_outbox.observability.masking import MASK, SHORT, Hiding, scalars

__all__ = ["MASK", "SEES_ALL", "Redaction", "redaction_for"]

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

    def mask(self, value: Any, in_texts: Callable[[str], str] = str) -> Any:
        """The value with all that is secret in it replaced; ``in_texts`` is for what else its texts are not to say."""
        if isinstance(value, dict):
            return {name: MASK if self.is_secret(name) else self.mask(item, in_texts) for name, item in value.items()}
        if isinstance(value, list):
            return [self.mask(item, in_texts) for item in value]
        return in_texts(value) if isinstance(value, str) else value

    def mask_text(self, text: str, *sources: Any) -> str:
        """A text without the secret values of some payloads and headers."""
        return self.in_texts(*sources)(text)

    def in_texts(self, *sources: Any) -> Callable[[str], str]:
        """As ``mask_text``, for any number of texts: of a large payload, to know its secrets takes the most time."""
        hide = Hiding(secret for source in sources for secret in self._secrets(source))

        def masked(text: str) -> str:
            text = hide(text)
            return text if len(text) < ERROR_LENGTH - SHORT else _without_cut_secret(text, hide.forms)

        return masked

    def _secrets(self, value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            for name, item in value.items():
                yield from scalars(item) if self.is_secret(name) else self._secrets(item)
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
