"""JSON Schema: JSON as stored, checked by a schema, in the registry's wire format."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from django_outbox.exceptions import InvalidMessage, MissingDependency, SchemaNotFound, text_of
from django_outbox.serializers.files import FileSerializer
from django_outbox.serializers.schemas import References

try:
    from jsonschema.exceptions import best_match
    from jsonschema.validators import validator_for
    from referencing import Registry, Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT7
except ImportError as error:
    raise MissingDependency("JSON Schema needs jsonschema: pip install 'django-kafka-outbox[jsonschema]'.") from error


class JsonSchemaCodec:
    """Checks JSON by one schema, and leaves it as it is."""

    name = ""

    def __init__(self, text: str, references: References) -> None:
        schema = json.loads(text)
        if isinstance(schema, dict):
            self.name = str(schema.get("title", ""))
        validator = validator_for(schema)
        # With formats, as Python must know the regular expressions of the schema.
        validator.check_schema(schema, format_checker=validator.FORMAT_CHECKER)
        used = [(name, Resource.from_contents(json.loads(each), DRAFT7)) for name, each in references]
        self._validator = validator(schema, registry=Registry().with_resources(used))

    def validate(self, payload: Any) -> None:
        try:
            error = best_match(self._validator.iter_errors(payload))
        except Unresolvable as fault:
            raise SchemaNotFound(
                f"The JSON Schema refers to {fault.ref!r}, which is not one of its references."
            ) from None
        if error is not None:
            # Its message shows the value.
            rule = f"{error.validator}: {json.dumps(error.validator_value)}" if error.validator else "false"
            raise InvalidMessage(f"payload{_place_of(error)}", f"it does not fit the schema's {rule[:200]}")

    def encode(self, payload_json: str) -> bytes:
        self.validate(json.loads(payload_json))
        return payload_json.encode()

    def decode(self, data: bytes) -> Any:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise ValueError("it is not UTF-8 text") from None
        try:
            payload = json.loads(text)
            json.dumps(payload, allow_nan=False)  # Python reads numbers that JSON does not have
        except (ValueError, RecursionError) as error:
            raise ValueError(f"it is not JSON that can be read: {text_of(error)[:200]}") from None
        return payload


def _place_of(error: Any) -> str:
    """Where a value is in the payload. Names that are not those of properties of the schema are data."""
    rules = list(error.absolute_schema_path)
    known = {name for rule, name in pairwise(rules) if rule == "properties"}
    parts = (
        f"[{each}]" if isinstance(each, int) else f".{each}" if each in known else "[*]" for each in error.absolute_path
    )
    return "".join(parts)


class JsonSchemaSerializer(FileSerializer):
    """Writes and reads JSON with a JSON Schema."""

    format = "JSON"
    content_type = "application/vnd.confluent.json"

    def make_codec(self, text: str, references: References) -> JsonSchemaCodec:
        return JsonSchemaCodec(text, references)
