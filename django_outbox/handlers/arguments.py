"""The arguments of a handler, by its annotations: the event, its payload validated with pydantic, or both."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django_outbox.events.declared import event_types
from django_outbox.events.event import Event
from django_outbox.events.typed import PayloadType, name_of

Converter = Callable[[Event], Any]

_ANY = (inspect.Parameter.empty, Any, object)
_LISTS = (list, collections.abc.Sequence, collections.abc.Collection, collections.abc.Iterable)
_EVENT = re.compile(r"(?P<list>[\w.]*(?:list|Sequence|Collection|Iterable)\[)?(?:\w+\.)*Event\]?$")


@dataclass(frozen=True, slots=True)
class Arguments:
    """Makes the arguments of one function from an event, or those of a batch handler from several.

    Attributes:
        converters: one for each argument; None passes the event itself.
        payload_type: the type of the argument as it is written in code; ``"Event"`` if no payload is converted.
    """

    converters: tuple[Converter | None, ...]
    payload_type: str

    def of(self, event: Event) -> list[Any]:
        """Return the arguments; raises ``PayloadMismatch``."""
        return [event if convert is None else convert(event) for convert in self.converters]

    def of_batch(self, events: Sequence[Event]) -> list[list[Any]]:
        """Return the arguments of a batch handler, each a new list; raises ``PayloadMismatch``."""
        return [
            list(events) if convert is None else [convert(event) for event in events] for convert in self.converters
        ]


def _required_parameters(function: Any) -> list[inspect.Parameter]:
    """Return the one or two parameters of a handler, or raise ``TypeError``."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:
        # A function written in C has no signature.
        return [inspect.Parameter("event", inspect.Parameter.POSITIONAL_ONLY)]
    positional = [each for each in parameters if each.kind not in (each.KEYWORD_ONLY, each.VAR_KEYWORD)]
    required = [each for each in positional if each.default is each.empty and each.kind != each.VAR_POSITIONAL]
    keywords = [each for each in parameters if each.kind == each.KEYWORD_ONLY and each.default is each.empty]
    chosen = required or positional[:1]
    if keywords or not 1 <= len(chosen) <= 2:
        raise TypeError(f"A handler takes one argument, the event or its payload, or both: {function!r}.")
    return chosen


def arguments_of(function: Any, *, batch: bool = False) -> Arguments:
    """Return what to call a handler, or a ``batch`` handler, with.

    Raises:
        NameError: an annotation is not defined, or not yet.
        TypeError: the function does not take an event, a payload or both; or, in a batch, lists of them.
    """
    annotations = [_resolved(parameter, function) for parameter in _required_parameters(function)]
    if batch:
        items = _arguments([_item_type(each, function) for each in annotations], function)
        return Arguments(items.converters, f"list[{items.payload_type}]")
    if any(typing.get_args(each) == (Event,) for each in annotations):
        raise TypeError(f'Only a batch handler takes a list of events, as in @handler("...", batch=500): {function!r}.')
    return _arguments(annotations, function)


def _item_type(annotation: Any, function: Any) -> Any:
    """Return the type of the items of a list that a batch handler takes."""
    if annotation in _ANY:
        return annotation
    if annotation in _LISTS:
        return Any
    items = typing.get_args(annotation)
    if typing.get_origin(annotation) not in _LISTS or len(items) != 1:
        raise TypeError(
            f"A batch handler takes a list of events or of payloads, as in (events: list[Event]) or "
            f"(orders: list[Order]), not {name_of(annotation)}: {function!r}."
        )
    return items[0]


def _arguments(annotations: list[Any], function: Any) -> Arguments:
    wants_event = [annotation is Event for annotation in annotations]
    if len(annotations) == 1:
        wants_event = [wants_event[0] or annotations[0] in _ANY]
    elif sum(wants_event) != 1 or inspect.Parameter.empty in annotations:
        raise TypeError(
            f"A handler with two arguments takes an event and its payload, and needs annotations, "
            f"as in (event: Event, order: Order): {function!r}."
        )
    converters: list[Converter | None] = []
    payload_type = name_of(Event)
    for annotation, is_event in zip(annotations, wants_event, strict=True):
        if is_event:
            converters.append(None)
            continue
        payload_type = name_of(annotation)
        try:
            converters.append(_converter(annotation))
        except NameError as error:
            raise _unresolved(payload_type, function, error) from error
        except TypeError as error:
            raise TypeError(f"A handler takes the event or its payload: {function!r}. {error}") from error
    return Arguments(tuple(converters), payload_type)


def _converter(annotation: Any) -> Converter:
    """Return a function that turns the payload of an event into a value of this type; raises ``PayloadMismatch``."""
    convert = PayloadType(annotation).convert
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return lambda event: convert(event.payload)
    members = typing.get_args(annotation)

    def convert_by_version(event: Event) -> Any:
        # The version says which of several declared types it is, where more than one may fit.
        declared = event_types.find(event.type, event.version, event.source)
        if declared is None or event.payload is None or declared.payload_type not in members:
            return convert(event.payload)
        return declared.payload.convert(event.payload)

    return convert_by_version


def _resolved(parameter: inspect.Parameter, function: Any) -> Any:
    """Return the annotation of a parameter; text is evaluated in the module of the function."""
    holder = types.SimpleNamespace(__annotations__={"it": parameter.annotation})
    try:
        return typing.get_type_hints(holder, globalns=_namespace(function), include_extras=True)["it"]
    except NameError as error:
        if match := _EVENT.match(str(parameter.annotation)):  # often imported only under TYPE_CHECKING
            return list[Event] if match["list"] else Event
        raise _unresolved(parameter.annotation, function, error) from error


def _unresolved(annotation: Any, function: Any, error: NameError) -> NameError:
    where = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))}"
    return NameError(
        f"{where} takes {annotation}, which cannot be resolved ({error}). Define or import it in "
        f"that module, not only under TYPE_CHECKING.",
        name=error.name,
    )


def _namespace(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the globals of the module that defines the function."""
    while not hasattr(function, "__globals__"):
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(type(function).__call__, types.FunctionType):
            function = type(function).__call__
        else:
            return {}
    namespace: dict[str, Any] = getattr(inspect.unwrap(function), "__globals__", {})
    return namespace
