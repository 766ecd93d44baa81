"""The arguments of a handler, by its annotations: the event, its payload validated with pydantic, or both."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django_outbox.events.event import Event
from django_outbox.events.payloads import RawBytes
from django_outbox.exceptions import MissingDependency, PayloadMismatch

Converter = Callable[[Any], Any]

_ANY = (inspect.Parameter.empty, Any, object)
_LISTS = (list, collections.abc.Sequence, collections.abc.Collection, collections.abc.Iterable)
_EVENT = re.compile(r"(?P<list>[\w.]*(?:list|Sequence|Collection|Iterable)\[)?(?:\w+\.)*Event\]?$")
_MODULES = re.compile(r"\b(?:\w+\.)+(?:<locals>\.)?(?=\w)")
# The default messages of these errors quote the input, which may be secret.
_WITHOUT_INPUT = {
    "union_tag_invalid": "unknown tag",
    "uuid_parsing": "Input should be a valid UUID",
    "needs_python_object": "Input should be bytes",  # of RawBytes; the default message is about pydantic
}


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
        return [event if convert is None else convert(event.payload) for convert in self.converters]

    def of_batch(self, events: Sequence[Event]) -> list[list[Any]]:
        """Return the arguments of a batch handler, each a new list; raises ``PayloadMismatch``."""
        return [
            list(events) if convert is None else [convert(event.payload) for event in events]
            for convert in self.converters
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


def converter(annotation: Any) -> Converter:
    """Return a function that turns a payload into a value of this type.

    A pydantic type follows its own configuration. Everything else is validated strictly: ``"1"`` is not an int.
    The function raises ``PayloadMismatch``.

    Raises:
        MissingDependency: pydantic is not installed.
        NameError: the type refers to a name that is not defined, or not yet.
        TypeError: pydantic cannot validate this type.
    """
    try:
        from pydantic import TypeAdapter, ValidationError
        from pydantic.errors import PydanticUserError
    except ImportError as error:
        raise MissingDependency(
            f"A handler takes {name_of(annotation)}. Typed payloads need pydantic: pip install 'django-kafka-outbox[typed]'."
        ) from error
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        adapter.rebuild()  # otherwise an undefined name shows only at the first payload
    except PydanticUserError as error:
        raise TypeError(f"{name_of(annotation)} is not a type that a payload can be validated against.") from error
    strict = None if _is_pydantic(annotation) else True

    def convert(payload: Any) -> Any:
        try:
            if isinstance(payload, RawBytes):
                return adapter.validate_python(payload, strict=strict)
            # As JSON, so that strict types accept dates and UUIDs as text.
            return adapter.validate_json(json.dumps(payload), strict=strict)
        except ValidationError as error:
            reason = _reason(error)
            if payload is None:
                reason += f" (a tombstone or null; to take both, annotate {name_of(annotation)} | None)"
        # Outside the handler above, because a ValidationError shows values.
        raise PayloadMismatch(f"The payload is not a valid {name_of(annotation)}: {reason}")

    return convert


def name_of(annotation: Any) -> str:
    """Return a type as it is written in code, without modules."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return _MODULES.sub("", str(annotation))


def _is_pydantic(annotation: Any) -> bool:
    annotation = getattr(annotation, "__supertype__", getattr(annotation, "__value__", annotation))
    return hasattr(annotation, "__pydantic_core_schema__") or any(map(_is_pydantic, typing.get_args(annotation)))


def _reason(error: Any) -> str:
    """Describe the first error by its place in the payload and the type found there, never by its value."""
    first, *others = error.errors(include_url=False, include_context=False)
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"]).removeprefix(".")
    reason = _WITHOUT_INPUT.get(first["type"], first["msg"])
    if first["type"] != "missing":
        found = first["input"]
        reason += f", found {'None' if found is None else type(found).__name__}"
    if others:
        reason += f" (and {len(others)} more)"
    return f"{place}: {reason}" if place else reason
