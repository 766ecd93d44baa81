"""Protocol Buffers, by a class that ``protoc`` generated."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from django_outbox.conf.values import import_function
from django_outbox.exceptions import InvalidMessage, MissingDependency
from django_outbox.serializers.base import kind_of
from django_outbox.serializers.schemas import Codec, References, RegistrySerializer

try:
    from google.protobuf import json_format
    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from google.protobuf.message import DecodeError, Message
except ImportError as error:
    raise MissingDependency("Protobuf needs protobuf: pip install 'django-kafka-outbox[protobuf]'.") from error

_FIELD = re.compile(r"Failed to parse (\w+) field|no field named \"(\w+)\"")
_LONG = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)


class ProtobufCodec:
    """Writes and reads one message. Fields keep their names of the ``.proto`` file in the payload."""

    def __init__(self, message: type[Message]) -> None:
        self._message = message
        self._descriptor: Descriptor = message.DESCRIPTOR
        self.name = str(self._descriptor.full_name)
        self._indexes = _indexes_of(self._descriptor)

    def validate(self, payload: Any) -> None:
        self._write(payload)

    def encode(self, payload_json: str) -> bytes:
        return self._indexes + self._write(json.loads(payload_json))

    def _write(self, payload: Any) -> bytes:
        if not isinstance(payload, dict):  # the library would take the letters of a text for fields
            raise InvalidMessage("payload", f"expected an object, got {kind_of(payload)}")
        try:
            return bytes(json_format.ParseDict(payload, self._message()).SerializeToString())
        except (json_format.ParseError, ValueError, TypeError, AttributeError) as error:
            # Its text shows the value.
            path = ".".join(known or unknown for known, unknown in _FIELD.findall(str(error)))
            is_unknown = "no field named" in str(error)
            reason = f"{self.name} does not have it" if is_unknown else f"it does not fit {self.name}"
            raise InvalidMessage(f"payload.{path}" if path else "payload", reason) from None

    def decode(self, data: bytes) -> Any:
        indexes = self._indexes
        if not data.startswith(indexes):
            raise ValueError(f"it is not a {self.name}, but another message of its file")
        message = self._message()
        try:
            message.ParseFromString(data[len(indexes) :])
        except DecodeError:
            raise ValueError("it is cut short or not Protobuf") from None
        payload = json_format.MessageToDict(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        return _with_integers(payload, self._descriptor)


class ProtobufSerializer(RegistrySerializer):
    """Writes and reads Protobuf."""

    kind = "PROTOBUF"
    content_type = "application/protobuf"

    def __init__(
        self,
        *,
        registry: Mapping[str, Any],
        message: str,
        subject: str = "{topic}-value",
        auto_register: bool = False,
    ) -> None:
        """
        Args:
            message: dotted path of the generated class, such as ``"shop.orders_pb2.OrderCreated"``.
            registry, subject, auto_register: see ``RegistrySerializer``. ``{record}`` is the full name of the message.

        Raises:
            ImproperlyConfigured: an option is invalid.
        """
        made: Any = import_function("SERIALIZERS", message)
        if not (isinstance(made, type) and issubclass(made, Message)):
            raise ImproperlyConfigured(f"message must be the dotted path of a generated class, not {message!r}.")
        self._codec_of_message = ProtobufCodec(made)
        self._file_text = _text_of(made.DESCRIPTOR)
        super().__init__(registry=registry, schema=message, subject=subject, auto_register=auto_register)

    def local_text(self, event_type: str, topic: str) -> str:
        return self._file_text

    def make_codec(self, text: str, references: References) -> Codec:
        """The generated class reads and writes all versions, as Protobuf's fields are known by number."""
        return self._codec_of_message


def _text_of(descriptor: Descriptor) -> str:
    """The file of a message, as ``confluent_kafka`` registers it."""
    for used in descriptor.file.dependencies:
        if not used.name.startswith("google/"):
            raise ImproperlyConfigured(
                f"{descriptor.file.name} imports {used.name}; only imports of google/ are supported."
            )
    file = FileDescriptorProto()
    descriptor.file.CopyToProto(file)
    return base64.b64encode(file.SerializeToString()).decode()


def _indexes_of(descriptor: Descriptor) -> bytes:
    """Where a message is in its file: a count and indexes, as zigzag varints; ``b"\\0"`` for the first message."""
    indexes: list[int] = []
    current: Descriptor | None = descriptor
    while current is not None:
        outer = current.containing_type
        siblings = outer.nested_types if outer is not None else current.file.message_types_by_name.values()
        indexes.insert(0, [each.full_name for each in siblings].index(current.full_name))
        current = outer
    if indexes == [0]:
        return b"\0"
    return b"".join(_varint(number * 2) for number in (len(indexes), *indexes))


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def _with_integers(payload: Any, descriptor: Descriptor) -> Any:
    """Integers of 64 bits as numbers: Protobuf's JSON has them as text."""
    if descriptor.full_name.startswith("google.protobuf.") or not isinstance(payload, dict):
        return payload
    return {name: _field(value, descriptor.fields_by_name[name]) for name, value in payload.items()}


def _field(value: Any, field: FieldDescriptor) -> Any:
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        return {key: _single(item, inner.fields_by_name["value"]) for key, item in value.items()}
    return [_single(item, field) for item in value] if isinstance(value, list) else _single(value, field)


def _single(value: Any, field: FieldDescriptor) -> Any:
    if field.cpp_type in _LONG:
        return int(value)
    return value if field.message_type is None else _with_integers(value, field.message_type)
