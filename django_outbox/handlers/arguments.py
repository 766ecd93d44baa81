"""The arguments of a handler, by its annotations: the event, its payload, or both."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django_outbox.events.event import Event
from django_outbox.handlers.payloads import Converter, converter, name_of

_ANY = (inspect.Parameter.empty, Any, object)


@dataclass(frozen=True, slots=True)
class Arguments:
    """Makes the arguments of one function from an event.

    Attributes:
        converters: one for each argument; None passes the event itself.
        payload_type: the type of the payload as it is written in code; ``"Event"`` if it is not converted.
    """

    converters: tuple[Converter | None, ...]
    payload_type: str

    def of(self, event: Event) -> list[Any]:
        """
        Raises:
            PayloadMismatch: the payload does not have the type that the function takes.
        """
        return [event if convert is None else convert(event.payload) for convert in self.converters]


def required_parameters(function: Any) -> list[inspect.Parameter]:
    """Return the one or two parameters of a handler.

    Raises:
        TypeError: it cannot be called with one or two positional arguments.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:
        return [
            inspect.Parameter("event", inspect.Parameter.POSITIONAL_ONLY)
        ]  # a function written in C has no signature
    positional = [each for each in parameters if each.kind not in (each.KEYWORD_ONLY, each.VAR_KEYWORD)]
    required = [each for each in positional if each.default is each.empty and each.kind != each.VAR_POSITIONAL]
    keywords = [each for each in parameters if each.kind == each.KEYWORD_ONLY and each.default is each.empty]
    chosen = required or positional[:1]
    if keywords or not 1 <= len(chosen) <= 2:
        raise TypeError(f"A handler takes one argument, the event or its payload, or both: {function!r}.")
    return chosen


def arguments_of(function: Any) -> Arguments:
    """Return what to call a handler with.

    Raises:
        NameError: an annotation is not defined, or not yet.
        TypeError: the function does not take an event, a payload or both.
    """
    annotations = [_resolved(parameter, function) for parameter in required_parameters(function)]
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
            converters.append(converter(annotation))
        except NameError as error:
            raise _unresolved(payload_type, function, error) from error
        except TypeError as error:
            raise TypeError(f"A handler takes the event or its payload: {function!r}. {error}") from error
    return Arguments(tuple(converters), payload_type)


def _resolved(parameter: inspect.Parameter, function: Any) -> Any:
    """Return the annotation of a parameter; text is evaluated in the module of the function."""
    holder = types.SimpleNamespace(__annotations__={"it": parameter.annotation})
    try:
        return typing.get_type_hints(holder, globalns=_namespace(function), include_extras=True)["it"]
    except NameError as error:
        if str(parameter.annotation).rpartition(".")[2] == "Event":
            return Event  # often imported only under TYPE_CHECKING
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
