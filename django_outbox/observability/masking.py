"""Hiding values where a text repeats them: those that a reader must not see, or that no log is to hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

MASK = "\N{BULLET}" * 6
SHORT = 4
MOST_VALUES = 10_000


class Hiding:
    """Hides some values in any number of texts, in whatever way these may have them."""

    def __init__(self, values: Iterable[Any]) -> None:
        self.forms = {form for value in values for form in forms_of(value)}
        self._by_length: dict[int, set[str]] = {}
        for form in self.forms:
            self._by_length.setdefault(len(form), set()).add(form)

    def __call__(self, text: str) -> str:
        found = [form for length, forms in self._by_length.items() for form in _found(text, length, forms)]
        for form in sorted(found, key=len, reverse=True):
            # Of a short one not every mention is meant: 123 is not in 41234.
            pattern = re.escape(form) if len(form) >= SHORT else rf"(?<!\w){re.escape(form)}(?!\w)"
            text = re.sub(pattern, MASK, text)
        return text


def _found(text: str, length: int, forms: set[str]) -> Iterable[str]:
    """Those of some forms, all of one length, that are in a text."""
    places = range(len(text) - length + 1)
    if len(forms) <= len(places):
        return [form for form in forms if form in text]
    # Of a large payload hardly anything is in an error, and to look for all of it would take minutes.
    return forms & {text[place : place + length] for place in places}


def hide(text: str, values: Iterable[Any]) -> str:
    """A text without some values, in whatever way it may have them."""
    return Hiding(values)(text)


def without_values(text: str, payload: Any) -> str:
    """A text without the values of a payload that it may quote, but for those of three characters or less."""
    values: list[Any] = []
    for value in scalars(payload):
        if len(values) == MOST_VALUES:
            return f"{text.partition(':')[0]} (not shown, as the payload is too large to be looked for in it)"
        if len(str(value)) >= SHORT:
            values.append(value)
    return hide(text, values)


def scalars(value: Any) -> Iterator[Any]:
    """The texts and numbers in something that JSON can carry."""
    left = [value]  # not by recursion, as bytes of strangers may be nested deeper than Python's functions may be
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left.extend(reversed(value.values()))
        elif isinstance(value, list):
            left.extend(reversed(value))
        elif value is not None and not isinstance(value, bool):
            yield value


def forms_of(value: Any) -> Iterator[str]:
    """How a value may stand in an error: as it is, as JSON or Python write it, and its words."""
    text = str(value)
    forms = {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1]}
    forms |= {word for word in text.split() if len(word) >= 2 * SHORT}
    yield from (form for form in forms if form.strip())
