"""Avro: a compact binary format whose schemas may evolve."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

from django_outbox.exceptions import MissingDependency, text_of
from django_outbox.serializers.avro_changes import Side, contains_itself, unreadable
from django_outbox.serializers.avro_types import Converters
from django_outbox.serializers.avro_values import Misfit, as_json
from django_outbox.serializers.registry import Loaded
from django_outbox.serializers.schemas import References, RegistrySerializer

try:
    import fastavro
    from fastavro import _read_py
except ImportError as error:
    raise MissingDependency("Avro needs fastavro: pip install 'django-kafka-outbox[avro]'.") from error


class AvroCodec:
    """Writes and reads Avro by one schema."""

    def __init__(self, text: str, references: References) -> None:
        schemas = [json.loads(each) for each in (*(used for _, used in references), text)]
        schema, named = _parsed(schemas)
        self.side = Side(schema, named)
        self.name = str(schema.get("name", "")) if isinstance(schema, dict) else ""
        self._schema = schema
        # The compiled reader has no limit of depth: a few kilobytes of a type that contains itself would end the process.
        self._read = _read_py.schemaless_reader if contains_itself(self.side) else fastavro.schemaless_reader
        self._convert = Converters(named).of(schema)
        # The converters do the work of logical types, in half of fastavro's time.
        self._plain_schema, _ = _parsed([_without_logical_types(each) for each in schemas])

    def validate(self, payload: Any) -> None:
        # Written as well, as only the writer knows all limits.
        self._write(payload)

    def encode(self, payload_json: str) -> bytes:
        return self._write(json.loads(payload_json))

    def _write(self, payload: Any) -> bytes:
        file = io.BytesIO()
        try:
            fastavro.schemaless_writer(file, self._plain_schema, self._convert(payload))
        except Misfit as error:
            raise error.as_invalid() from None
        return file.getvalue()

    def decode(self, data: bytes) -> Any:
        file = io.BytesIO(data)
        try:
            value = self._read(file, self._schema, None)
        except Exception as error:  # fastavro lets errors of all kinds through, as of struct and the codecs
            raise ValueError(f"it is cut short or not Avro ({type(error).__name__})") from None
        if left := len(data) - file.tell():
            raise ValueError(f"{left} bytes are left after the end of its data")
        try:
            return json.loads(json.dumps(value, default=as_json, allow_nan=False))
        except ValueError as error:
            raise ValueError(f"JSON cannot represent it: {text_of(error)}") from None


def _parsed(schemas: Sequence[Any]) -> tuple[Any, dict[str, Any]]:
    """The last of some schemas, each of which may use those before it, and all named types."""
    named: dict[str, Any] = {}
    parsed = [fastavro.parse_schema(each, named_schemas=named) for each in schemas]
    return parsed[-1], named


def _without_logical_types(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_logical_types(each) for each in schema]
    if isinstance(schema, dict):
        return {
            name: each if name == "default" else _without_logical_types(each)
            for name, each in schema.items()
            if name != "logicalType"
        }
    return schema


class AvroSerializer(RegistrySerializer):
    """Writes and reads Avro. Dates and times, decimals and bytes are text in the payload."""

    kind = "AVRO"
    content_type = "application/avro"

    def make_codec(self, text: str, references: References) -> AvroCodec:
        return AvroCodec(text, references)

    def broken_readers(self, latest: Loaded, text: str) -> list[str]:
        version = latest.version_in("")
        old, new = AvroCodec(latest.text, latest.references).side, AvroCodec(text, ()).side
        records = f"Readers with the new schema cannot read records of version {version}"
        readers = f"Readers with version {version} cannot read new records"
        return [
            *(f"{records}: {problem}." for problem in unreadable(new, old)),
            *(f"{readers}: {problem}." for problem in unreadable(old, new)),
        ]
