"""Turns payloads, as JSON carries them, into the types that a project wrote down for them.

What a type takes, told once, when the handler is registered::

    dataclass         an object; fields without a default must be there, unknown ones are ignored
    pydantic's types  what pydantic takes from JSON
    str, bool, int    just that: True is no int, 1.0 neither
    float             any number
    Decimal           a number, or text with one
    datetime, date, time, timedelta, UUID
                      text: ISO 8601 as Django's JSON encoder writes it, or a UUID
    Enum, Literal     one of their values
    list, set, tuple, dict and what is like them
                      a list, or an object
    X | Y             the first that fits
    Any               everything
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable
from enum import Enum
from typing import Any, Literal

from django_outbox.handlers.converters import (
    SCALARS,
    Converter,
    DataclassConverter,
    anything,
    dict_of,
    int_of_text,
    list_of,
    one_of,
    tuple_of,
    union_of,
)
from django_outbox.handlers.pydantic_types import is_pydantic, pydantic_converter

_MISSING = inspect.Parameter.empty
_LISTS: dict[Any, Callable[[list[Any]], Any]] = {
    list: list,
    set: set,
    frozenset: frozenset,
    collections.abc.Sequence: list,
    collections.abc.Iterable: list,
    collections.abc.Collection: list,
    collections.abc.Set: frozenset,
}
_OBJECTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def name_of(annotation: Any) -> str:
    """A type as people write it, without modules."""
    if annotation is type(None):
        return "None"
    annotation = _plain(annotation)
    if _is_union(annotation):
        return " | ".join(name_of(each) for each in typing.get_args(annotation))
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None:
        return str(getattr(annotation, "__name__", annotation))
    inner = [repr(each) if origin is Literal else "..." if each is ... else name_of(each) for each in arguments]
    return f"{getattr(origin, '__name__', origin)}[{', '.join(inner)}]"


def converter(annotation: Any) -> Converter:
    """A function from a payload to a value of this type; it raises :exc:`~django_outbox.handlers.converters.Misfit`.

    All that has to be found out about the type is found out here, once.

    Raises:
        NameError: some name in the annotations is not defined, or not yet.
        TypeError: this is no type that JSON could be turned into.
    """
    return _Maker().make(annotation)


class _Maker:
    """Makes the converters of one annotation. Keeps those of dataclasses, which may hold themselves."""

    def __init__(self) -> None:
        self._objects: dict[type, DataclassConverter] = {}

    def make(self, annotation: Any) -> Converter:
        plain = _plain(annotation)
        if is_pydantic(annotation) or is_pydantic(plain):  # behind another name as well
            return pydantic_converter(annotation)
        annotation = plain
        origin, arguments = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
        if annotation in (Any, object):
            return anything
        if _is_union(annotation):
            return self._union(annotation, arguments)
        if origin is Literal:
            return _literal(annotation, arguments)
        if origin is tuple:
            return self._tuple(arguments)
        if origin in _LISTS:
            return list_of(_LISTS[origin], self.make(arguments[0] if arguments else Any))
        if origin in _OBJECTS:
            key, value = arguments or (str, Any)
            return dict_of(self._key(key), self.make(value))
        if isinstance(annotation, type):
            if annotation in SCALARS:
                return SCALARS[annotation]
            if issubclass(annotation, Enum):
                return _enum(annotation)
            if dataclasses.is_dataclass(annotation):
                return self._dataclass(annotation)
        raise TypeError(
            f"{name_of(annotation)} is no type for a payload: take a dataclass, a pydantic model, or what JSON has."
        )

    def _dataclass(self, cls: type) -> Converter:
        known = self._objects.get(cls)
        if known is None:
            known = self._objects[cls] = DataclassConverter(cls)
            hints = typing.get_type_hints(cls, include_extras=True)
            for parameter in inspect.signature(cls).parameters.values():
                hint = hints.get(parameter.name, Any)
                if isinstance(hint, dataclasses.InitVar):
                    hint = hint.type
                if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                    missing = f"missing, expected {name_of(hint)}" if parameter.default is _MISSING else None
                    known.fields.append((parameter.name, self.make(hint), missing))
        return known

    def _union(self, annotation: Any, arguments: tuple[Any, ...]) -> Converter:
        members = [(name_of(each), self.make(each)) for each in arguments if each is not type(None)]
        return union_of(members, name_of(annotation), optional=type(None) in arguments)

    def _tuple(self, arguments: tuple[Any, ...]) -> Converter:
        if not arguments or arguments[-1] is ...:
            return list_of(tuple, self.make(arguments[0] if arguments else Any))
        return tuple_of([self.make(each) for each in arguments])

    def _key(self, annotation: Any) -> Converter:
        """JSON has only text as keys."""
        return int_of_text if annotation is int else self.make(annotation)


def _plain(annotation: Any) -> Any:
    """The type behind ``Annotated``, ``NewType``, and ``type X = ...``."""
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = annotation.__origin__
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":  # from Python 3.12
            annotation = annotation.__value__
        else:
            return annotation


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _literal(annotation: Any, choices: tuple[Any, ...]) -> Converter:
    by_type = {(type(each), each): each for each in choices}
    return one_of(name_of(annotation), {type(each) for each in choices}, lambda value: by_type[type(value), value])


def _enum(cls: type[Enum]) -> Converter:
    expected = f"{cls.__name__} ({', '.join(repr(member.value) for member in cls)})"
    return one_of(expected, {type(member.value) for member in cls}, cls)
