"""Avro: a compact binary format whose schemas may evolve."""

from __future__ import annotations

import io
import json
from typing import Any

from django_outbox.exceptions import MissingDependency, text_of
from django_outbox.serializers.avro_types import Converters
from django_outbox.serializers.avro_values import OWN, READERS, as_json
from django_outbox.serializers.files import FileSerializer
from django_outbox.serializers.misfit import Misfit
from django_outbox.serializers.schemas import References

try:
    import fastavro
    from fastavro.read import LOGICAL_READERS
except ImportError as error:
    raise MissingDependency("Avro needs fastavro: pip install 'django-kafka-outbox[avro]'.") from error

LOGICAL_READERS.update({f"{kind}-{OWN}{logical}": read for (kind, logical), read in READERS.items()})
_READ_BY_US = {logical for _, logical in READERS}


class AvroCodec:
    """Writes and reads Avro by one schema."""

    def __init__(self, text: str, references: References) -> None:
        named: dict[str, Any] = {}
        for each in (*(used for _, used in references), text):
            schema = fastavro.parse_schema(json.loads(each, object_hook=_with_own_readers), named_schemas=named)
        self.name = str(schema.get("name", "")) if isinstance(schema, dict) else ""
        self._schema: Any = schema
        converters = Converters(named)
        self._convert = converters.of(schema)
        self._read = _reader_of_any_depth() if converters.is_recursive else fastavro.schemaless_reader

    def validate(self, payload: Any) -> None:
        # Written as well, as only the writer knows all limits.
        self._write(payload)

    def encode(self, payload_json: str) -> bytes:
        return self._write(json.loads(payload_json))

    def _write(self, payload: Any) -> bytes:
        file = io.BytesIO()
        try:
            fastavro.schemaless_writer(file, self._schema, self._convert(payload))
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


def _with_own_readers(schema: dict[str, Any]) -> dict[str, Any]:
    logical = schema.get("logicalType")
    return {**schema, "logicalType": f"{OWN}{logical}"} if logical in _READ_BY_US else schema


def _reader_of_any_depth() -> Any:
    """The compiled reader has no limit of depth: a few kilobytes of a type that contains itself would end the process."""
    from fastavro import _read_py

    return _read_py.schemaless_reader


class AvroSerializer(FileSerializer):
    """Writes and reads Avro. Dates and times, decimals and bytes are text in the payload."""

    format = "AVRO"
    content_type = "application/avro"

    def make_codec(self, text: str, references: References) -> AvroCodec:
        return AvroCodec(text, references)
