"""Converters of single values, as JSON carries them, to what Python has for them.

A converter is a function of one value. It returns the value of the type that it is for, or raises
``Misfit``. Which converters a type needs is for :mod:`django_outbox.handlers.payloads` to find out.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Collection, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

from django.utils.dateparse import parse_duration

Converter = Callable[[Any], Any]


class Misfit(Exception):
    """A value is not what its type asks for. Its text has the place and types, never the value."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self._reason = reason
        self._path = ""

    @classmethod
    def of(cls, expected: str, value: Any) -> Misfit:
        return cls(f"expected {expected}, found {type_of(value)}")

    @property
    def inside(self) -> bool:
        """True if it is a part of the value that does not fit."""
        return bool(self._path)

    def within(self, step: str) -> Misfit:
        """This misfit, seen from outside: ``step`` is ``.name`` or ``[index]``."""
        self._path = step + self._path
        return self

    def __str__(self) -> str:
        return f"{self._path.removeprefix('.')}: {self._reason}" if self._path else self._reason


def type_of(value: Any) -> str:
    return "None" if value is None else type(value).__name__


# Scalars


def anything(value: Any) -> Any:
    return value


def _just(kind: type) -> Converter:
    name = "None" if kind is type(None) else kind.__name__

    def convert(value: Any) -> Any:
        if type(value) is kind:  # a bool is an int to isinstance
            return value
        raise Misfit.of(name, value)

    return convert


def _float(value: Any) -> float:
    if type(value) in (int, float):
        try:
            return float(value)
        except OverflowError:
            raise Misfit("expected float, found an int too large for one") from None
    raise Misfit.of("float", value)


def _decimal(value: Any) -> Decimal:
    if type(value) in (str, int, float):
        try:
            number = Decimal(str(value))  # a float as it was written, not as it is stored
        except (InvalidOperation, ValueError):  # ValueError: an int of more than 4300 digits
            number = Decimal("NaN")
        if number.is_finite():
            return number
        raise Misfit(f"expected Decimal, found {type_of(value)} that is no number")
    raise Misfit.of("Decimal", value)


def _text(kind: type, parse: Callable[[str], Any]) -> Converter:
    name = kind.__name__

    def convert(value: Any) -> Any:
        if type(value) is not str:
            raise Misfit.of(f"{name} as text", value)
        try:
            parsed = parse(value)
        except (ValueError, OverflowError):
            parsed = None
        if parsed is None:
            raise Misfit(f"expected {name}, found text that is none")
        return parsed

    return convert


def _datetime(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if len(text) > len("2000-01-01") else None


int_of_text = _text(int, int)

SCALARS: dict[Any, Converter] = {
    str: _just(str),
    int: _just(int),
    bool: _just(bool),
    type(None): _just(type(None)),
    float: _float,
    Decimal: _decimal,
    datetime: _text(datetime, _datetime),
    date: _text(date, date.fromisoformat),
    time: _text(time, time.fromisoformat),
    timedelta: _text(timedelta, parse_duration),
    UUID: _text(UUID, UUID),
}


def one_of(expected: str, kinds: Collection[type], pick: Callable[[Any], Any]) -> Converter:
    def convert(value: Any) -> Any:
        if type(value) not in kinds:  # 1 == True, to an enum as well
            raise Misfit.of(expected, value)
        try:
            return pick(value)
        except (KeyError, ValueError):
            raise Misfit(f"expected {expected}, found another {type_of(value)}") from None

    return convert


# Containers


def _item(place: Any, convert: Converter, value: Any) -> Any:
    try:
        return convert(value)
    except Misfit as misfit:
        raise misfit.within(f"[{reprlib.repr(place)}]")  # noqa: B904  # it is the same one


def list_of(build: Callable[[list[Any]], Any], convert_item: Converter) -> Converter:
    def convert(value: Any) -> Any:
        if not isinstance(value, list):
            raise Misfit.of("list", value)
        items = [_item(index, convert_item, item) for index, item in enumerate(value)]
        try:
            return build(items)
        except TypeError:
            raise Misfit("expected what a set can hold, found a list or a dict in it") from None

    return convert


def tuple_of(members: Sequence[Converter]) -> Converter:
    """A tuple of so many items, each with a converter of its own."""

    def convert(value: Any) -> Any:
        if not isinstance(value, list):
            raise Misfit.of("list", value)
        if len(value) != len(members):
            raise Misfit(f"expected a list of {len(members)}, found one of {len(value)}")
        return tuple(_item(index, members[index], item) for index, item in enumerate(value))

    return convert


def dict_of(convert_key: Converter, convert_value: Converter) -> Converter:
    def convert(value: Any) -> Any:
        if not isinstance(value, dict):
            raise Misfit.of("dict", value)
        return {_item(key, convert_key, key): _item(key, convert_value, item) for key, item in value.items()}

    return convert


def union_of(members: Sequence[tuple[str, Converter]], expected: str, *, optional: bool) -> Converter:
    """The first of the members that fits; each comes with its name. ``optional``: None fits as well."""

    def convert(value: Any) -> Any:
        if value is None and optional:
            return None
        inside = []
        for name, convert_one in members:
            try:
                return convert_one(value)
            except Misfit as misfit:
                if misfit.inside:
                    inside.append((name, misfit))
        if len(inside) == 1:
            raise inside[0][1]
        details = f" ({'; '.join(f'as {name}: {misfit}' for name, misfit in inside)})" if inside else ""
        raise Misfit(f"expected {expected}, found {type_of(value)}{details}")

    return convert


class DataclassConverter:
    """Makes instances of a dataclass from objects."""

    def __init__(self, cls: type) -> None:
        self._cls = cls
        # Name, converter, and what to say where it is missing; None for one that has a default.
        self.fields: list[tuple[str, Converter, str | None]] = []

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, dict):
            raise Misfit.of(self._cls.__name__, value)
        arguments = {}
        for name, convert, missing in self.fields:
            if name in value:
                try:
                    arguments[name] = convert(value[name])
                except Misfit as misfit:
                    raise misfit.within(f".{name}")  # noqa: B904  # it is the same one
            elif missing is not None:
                raise Misfit(missing).within(f".{name}")
        try:
            return self._cls(**arguments)
        except ValueError as error:
            # As its __post_init__ says, in words that the project chose.
            raise Misfit(str(error)) from error
