"""Typed payloads: validates a payload against the type that a handler names, with pydantic."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Callable
from typing import Any

from django_outbox.exceptions import MissingDependency, PayloadMismatch

Converter = Callable[[Any], Any]

_MODULES = re.compile(r"\b(?:\w+\.)+(?:<locals>\.)?(?=\w)")
# The default messages of these errors quote the input, which may be secret.
_WITHOUT_INPUT = {
    "union_tag_invalid": "unknown tag",
    "uuid_parsing": "Input should be a valid UUID",
}


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
            # As JSON, so that strict types accept dates and UUIDs as text.
            return adapter.validate_json(json.dumps(payload), strict=strict)
        except ValidationError as error:
            reason = _reason(error)
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
