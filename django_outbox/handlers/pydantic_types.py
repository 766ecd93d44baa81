"""Payloads that become types of pydantic's, by pydantic, which is imported only if there is one."""

from __future__ import annotations

import json
import typing
from typing import Any

from django_outbox.handlers.converters import Converter, Misfit, type_of

# Pydantic's own words for these quote what was found.
_WITHOUT_VALUES = {
    "union_tag_invalid": "its tag is none that is known",
    "uuid_parsing": "Input should be a valid UUID",
}


def is_pydantic(annotation: Any) -> bool:
    """True if a type of pydantic's is in it: then all of it is for pydantic, which knows more."""
    if isinstance(annotation, type) and hasattr(annotation, "__pydantic_core_schema__"):
        return True
    return any(is_pydantic(each) for each in typing.get_args(annotation))


def pydantic_converter(annotation: Any) -> Converter:
    """
    Raises:
        NameError: some name in a model's annotations is not defined, or not yet.
    """
    from pydantic import TypeAdapter, ValidationError

    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    adapter.rebuild()  # pydantic itself would tell only at the first payload what is not defined
    # Of JSON and not of Python's objects, so that a strict model takes a date as text.
    validate = adapter.validate_json

    def convert(value: Any) -> Any:
        try:
            return validate(json.dumps(value))
        except ValidationError as error:
            misfit = _misfit(error)
        raise misfit  # outside, for the ValidationError shows the values

    return convert


def _misfit(error: Any) -> Misfit:
    first, *others = error.errors(include_url=False, include_context=False)
    reason = _WITHOUT_VALUES.get(first["type"], first["msg"])
    if first["type"] != "missing":
        reason += f", found {type_of(first['input'])}"
    if others:
        reason += f" (and {len(others)} more)"
    misfit = Misfit(reason)
    for step in reversed(first["loc"]):
        misfit.within(f"[{step}]" if isinstance(step, int) else f".{step}")
    return misfit
