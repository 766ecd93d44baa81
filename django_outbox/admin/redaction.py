"""Masks secret values in payloads and headers, and in errors that repeat them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from django_outbox.conf import settings
from django_outbox.models.lengths import ERROR_LENGTH
from django_outbox.observability.masking import MASK, SHORT, ValueMasker, scalars

__all__ = ["MASK", "SEES_ALL", "Redaction", "redaction_for"]

_NOT_A_WORD = re.compile(r"[\W_]+")


class Redaction:
    """Masks the values that a reader must not see.

    Args:
        names: a value is secret if its name contains one of these, ignoring case and separators: ``api_key`` masks
            ``X-Api-Key`` and ``apiKey``.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = [plain for name in names if (plain := _plain(name))]

    def is_secret(self, name: str) -> bool:
        plain = _plain(name)
        return any(secret in plain for secret in self._names)

    def mask(self, value: Any, in_texts: Callable[[str], str] = str) -> Any:
        """A copy with all secret values masked; ``in_texts`` is applied to the remaining texts."""
        if isinstance(value, dict):
            return {name: MASK if self.is_secret(name) else self.mask(item, in_texts) for name, item in value.items()}
        if isinstance(value, list):
            return [self.mask(item, in_texts) for item in value]
        return in_texts(value) if isinstance(value, str) else value

    def mask_text(self, text: str, *sources: Any) -> str:
        """A text with the secret values of these payloads and headers masked."""
        return self.in_texts(*sources)(text)

    def in_texts(self, *sources: Any) -> Callable[[str], str]:
        """As ``mask_text``, for many texts: collecting the secrets of a large payload takes most of the time."""
        mask = ValueMasker(secret for source in sources for secret in self._secrets(source))

        def masked(text: str) -> str:
            text = mask(text)
            return text if len(text) < ERROR_LENGTH - SHORT else _without_cut_secret(text, mask.forms)

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
    """The redaction for a user and a model."""
    if user.has_perm(f"django_outbox.see_payload_{model_name}"):
        return SEES_ALL
    return Redaction(settings.redact)


def _plain(name: str) -> str:
    return _NOT_A_WORD.sub("", name).lower()


def _without_cut_secret(text: str, secrets: Iterable[str]) -> str:
    """Mask the part of a secret that is left at the end of a cut error."""
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
