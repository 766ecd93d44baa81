"""Masks values that a text repeats, such as those of a payload in an error."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

MASK = "\N{BULLET}" * 6
SHORT = 4
MOST_VALUES = 10_000


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


def without_values(text: str, payload: Any) -> str:
    """A text with the values of a payload masked, except those of three characters or less."""
    values: list[Any] = []
    for value in scalars(payload):
        if len(values) == MOST_VALUES:
            return f"{text.partition(':')[0]} (details hidden: the payload is too large to mask its values)"
        if len(str(value)) >= SHORT:
            values.append(value)
    return ValueMasker(values)(text)


def scalars(value: Any) -> Iterator[Any]:
    """The texts and numbers in a JSON value."""
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
