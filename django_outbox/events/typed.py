"""Types of payloads: validates payloads with pydantic, and writes the JSON Schema of a type."""

from __future__ import annotations

import ipaddress
import json
import re
import traceback
import typing
from collections.abc import Mapping
from functools import cache, cached_property
from typing import Any

from django_outbox.events.payloads import RawBytes
from django_outbox.exceptions import InvalidMessage, MissingDependency, PayloadMismatch, in_one_line

_MODULES = re.compile(r"\b(?:\w+\.)+(?:<locals>\.)?(?=\w)")
# The default messages of these errors quote the input, which may be secret.
_WITHOUT_INPUT = {
    "union_tag_invalid": "unknown tag",
    "uuid_parsing": "Input should be a valid UUID",
    "zoneinfo_str": "Input should be a valid time zone",
    "import_error": "Input should be the path of something that can be imported",
    "needs_python_object": "Input should be bytes",  # of RawBytes; the default message is about pydantic
}


class PayloadType:
    """A type that payloads are validated against.

    A pydantic type follows its own configuration. Everything else is validated strictly: ``"1"`` is not an int.
    """

    def __init__(self, annotation: Any) -> None:
        """
        Raises:
            MissingDependency: pydantic is not installed.
            NameError: the type refers to a name that is not defined, or not yet.
            TypeError: pydantic cannot validate this type.
        """
        self.name = name_of(annotation)
        require_pydantic(f"A handler takes {self.name}.")
        from pydantic import TypeAdapter
        from pydantic.errors import PydanticUserError
        from pydantic_core import SchemaError

        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(annotation)
            self._adapter.rebuild()  # otherwise an undefined name shows only at the first payload
        except (PydanticUserError, SchemaError) as error:  # the latter for a pattern that is not a regular expression
            text = error.message.partition("\n")[0] if isinstance(error, PydanticUserError) else in_one_line(error)
            raise TypeError(f"{self.name} is not a type that a payload can be validated against: {text}") from error
        self._strict = None if _is_pydantic(annotation) else True

    def convert(self, payload: Any) -> Any:
        """Return a payload as a value of this type.

        Raises:
            PayloadMismatch: naming the field.
        """
        # As JSON, so that strict types accept dates and UUIDs as text.
        data = payload if isinstance(payload, RawBytes) else json.dumps(payload)
        value, problem = self._validated(data)
        if problem is None:
            return value
        place, reason = problem
        if payload is None:
            reason += f" (a tombstone or null; to take both, annotate {self.name} | None)"
        raise PayloadMismatch(f"The payload is not a valid {self.name}: {f'{place}: ' if place else ''}{reason}")

    def require(self, data: str | RawBytes) -> None:
        """Check a payload to publish, as JSON or bytes, just as ``convert`` does.

        Raises:
            InvalidMessage: naming the field, such as ``payload.lines[1].count``.
        """
        try:
            _, problem = self._validated(data)
        except Exception as error:  # of the class, such as its __post_init__; the text may show a value
            problem = "", f"its class raised {type(error).__name__}"
        if problem is not None:
            place, reason = problem
            dot = "" if not place or place.startswith("[") else "."
            raise InvalidMessage(f"payload{dot}{place}", f"it does not fit {self.name}: {reason}")

    @cached_property
    def json_schema_text(self) -> str:
        """The JSON Schema to read; "" if there is none."""
        schema = self.json_schema("#/$defs/{model}")
        return "" if schema is None else json.dumps(schema, indent=2, ensure_ascii=False)

    def json_schema(self, ref_template: str) -> dict[str, Any] | None:
        """Return the JSON Schema (draft 7) of what is valid; None if there is none, as for ``RawBytes``.

        Args:
            ref_template: the reference to a type in ``$defs``, with ``{model}`` for its name.
        """
        from pydantic.errors import PydanticInvalidForJsonSchema

        try:
            return self._adapter.json_schema(ref_template=ref_template, schema_generator=_schema_generator())
        except PydanticInvalidForJsonSchema:
            return None

    def _validated(self, data: str | RawBytes) -> tuple[Any, tuple[str, str] | None]:
        """Return the value, or the place in the payload and the reason why it is not valid."""
        from pydantic import ValidationError

        try:
            if isinstance(data, RawBytes):
                return self._adapter.validate_python(data, strict=self._strict), None
            return self._adapter.validate_json(data, strict=self._strict), None
        except ValidationError as error:  # not raised or chained, because it shows values
            return None, _problem(error)


def require_pydantic(reason: str) -> None:
    """
    Raises:
        MissingDependency: pydantic is not installed.
    """
    try:
        import pydantic  # noqa: F401
    except ImportError as error:
        raise MissingDependency(
            f"{reason} Typed payloads need pydantic: pip install 'django-kafka-outbox[typed]'."
        ) from error


@cache
def _schema_generator() -> Any:
    """The class that writes JSON Schema as AsyncAPI reads it: draft 7, where pydantic writes later drafts and OpenAPI."""
    from pydantic.json_schema import GenerateJsonSchema

    class Generator(GenerateJsonSchema):
        ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}

        def tagged_union_schema(self, schema: Any) -> dict[str, Any]:
            written = super().tagged_union_schema(schema)
            written.pop("discriminator", None)
            return written

        def tuple_schema(self, schema: Any) -> dict[str, Any]:
            written = super().tuple_schema(schema)
            if "prefixItems" in written:
                if "items" in written:
                    written["additionalItems"] = written["items"]
                written["items"] = written.pop("prefixItems")
            return written

    return Generator


def name_of(annotation: Any) -> str:
    """Return a type as it is written in code, without modules."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return _MODULES.sub("", str(annotation))


def _is_pydantic(annotation: Any) -> bool:
    annotation = getattr(annotation, "__supertype__", getattr(annotation, "__value__", annotation))
    return hasattr(annotation, "__pydantic_core_schema__") or any(map(_is_pydantic, typing.get_args(annotation)))


def _problem(error: Any) -> tuple[str, str]:
    """Describe the first error by its place in the payload and the type found there, never by its value."""
    first, *others = error.errors(include_url=False)
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"]).removeprefix(".")
    reason = _WITHOUT_INPUT.get(first["type"], first["msg"])
    if _raised_by_ipaddress(first):
        reason = "Input should be a valid IP address or network"
    if first["type"] != "missing":
        found = first["input"]
        reason += f", found {'None' if found is None else type(found).__name__}"
    if others:
        reason += f" (and {len(others)} more)"
    return place, reason


def _raised_by_ipaddress(details: Mapping[str, Any]) -> bool:
    """True for errors whose text is that of Python's ipaddress, which quotes the input."""
    raised = details.get("ctx", {}).get("error")
    frames = traceback.walk_tb(getattr(raised, "__traceback__", None))
    return any(frame.f_globals.get("__name__") == ipaddress.__name__ for frame, _ in frames)
