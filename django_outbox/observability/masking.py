"""Masks values in texts and payloads: those that an error quotes, and secrets that a reader must not see."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from django_outbox.events.payloads import has_bytes
from django_outbox.models.lengths import ERROR_LENGTH

MASK = "\N{BULLET}" * 6
SHORT = 4
MOST_VALUES = 10_000
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

    def error_of(self, message: Any) -> str:
        """The last error of a message, without the secret values of its payload and headers, which bytes do not name."""
        if self._names and message.last_error and has_bytes(message):
            return MASK
        return self.in_texts(message.payload, message.headers)(message.last_error)

    def in_texts(self, *sources: Any) -> Callable[[str], str]:
        """A function that masks, in texts, the secret values of these payloads and headers.

        Collecting the secrets of a large payload takes most of the time: use one function for many texts.
        """
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


class ValueMasker:
    """Masks values in texts, in all forms in which a text may contain them."""

    def __init__(self, values: Iterable[Any]) -> None:
        self.forms = {form for value in values for form in forms_of(value)}
        self._by_length: dict[int, set[str]] = {}
        for form in self.forms:
            self._by_length.setdefault(len(form), set()).add(form)

    def __call__(self, text: str) -> str:
        found = [form for length, forms in self._by_length.items() for form in _occurring(text, length, forms)]
        for form in sorted(found, key=len, reverse=True):
            # Short values must match as a whole: 123 is not in 41234.
            pattern = re.escape(form) if len(form) >= SHORT else rf"(?<!\w){re.escape(form)}(?!\w)"
            text = re.sub(pattern, MASK, text)
        return text


def _occurring(text: str, length: int, forms: set[str]) -> Iterable[str]:
    """The forms, all of one length, that occur in a text."""
    places = range(len(text) - length + 1)
    if len(forms) <= len(places):
        return [form for form in forms if form in text]
    # Few values of a large payload occur in an error; searching for each would take minutes.
    return forms & {text[place : place + length] for place in places}


def without_values(text: str, payload: Any, kept: str = "") -> str:
    """A text with the values of a payload masked, except those of three characters or less.

    Args:
        kept: what remains of the text if the values cannot be masked: bytes, of which an error may quote any part in
            any form, or too many values.
    """
    values: list[Any] = []
    for value in scalars(payload):
        if isinstance(value, bytes):
            return f"{kept} (details hidden: the payload is bytes)".lstrip()
        if len(values) == MOST_VALUES:
            return f"{kept} (details hidden: the payload is too large to mask its values)".lstrip()
        if len(str(value)) >= SHORT:
            values.append(value)
    return ValueMasker(values)(text)


def scalars(value: Any) -> Iterator[Any]:
    """The texts and numbers in a payload, or its bytes."""
    left = [value]  # not recursive: foreign records may be nested deeper than Python's call stack
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left.extend(reversed(value.values()))
        elif isinstance(value, list):
            left.extend(reversed(value))
        elif value is not None and not isinstance(value, bool):
            yield value


def forms_of(value: Any) -> Iterator[str]:
    """The forms of a value in an error: as it is, as JSON, as a Python literal, and its longer words."""
    text = str(value)
    forms = {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1]}
    forms |= {word for word in text.split() if len(word) >= 2 * SHORT}
    yield from (form for form in forms if form.strip())
