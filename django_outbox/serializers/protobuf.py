"""Protocol Buffers, by a class that ``protoc`` generated."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from django_outbox.conf.values import import_function
from django_outbox.exceptions import InvalidMessage, MissingDependency, SchemaNotFound
from django_outbox.serializers.base import kind_of
from django_outbox.serializers.misfit import Misfit
from django_outbox.serializers.schemas import Codec, References, RegistrySerializer

try:
    from google.protobuf import json_format
    from google.protobuf.message import DecodeError, Message

    from django_outbox.serializers import protobuf_files as files
    from django_outbox.serializers.protobuf_values import require_exact, with_integers
except ImportError as error:
    raise MissingDependency("Protobuf needs protobuf: pip install 'django-kafka-outbox[protobuf]'.") from error

_FIELD = re.compile(r"Failed to parse (\w+) field: ")
_UNKNOWN = re.compile(r'Message type "[\w.]+" has no field named "(\w{1,100})" at "')


class ProtobufCodec:
    """Writes and reads one message. Fields keep their names of the ``.proto`` file in the payload."""

    def __init__(self, message: type[Message], text: str = "") -> None:
        """``text``: of the writer's file; without one that can be read, the file is that of ``message``."""
        self._message = message
        self._descriptor = message.DESCRIPTOR
        self.name = str(self._descriptor.full_name)
        indexes = files.indexes_of(self._descriptor)
        self._prefix = files.encoded(indexes)
        self._names = files.names_in(text) or {indexes: self.name}

    def validate(self, payload: Any) -> None:
        self._write(payload)

    def encode(self, payload_json: str) -> bytes:
        return self._prefix + self._write(json.loads(payload_json))

    def _write(self, payload: Any) -> bytes:
        if not isinstance(payload, dict):  # the library would take the letters of a text for fields
            raise InvalidMessage("payload", f"expected an object, got {kind_of(payload)}")
        try:
            require_exact(payload, self._descriptor)
            return bytes(json_format.ParseDict(payload, self._message()).SerializeToString())
        except Misfit as error:
            raise error.as_invalid() from None
        except RecursionError:
            raise
        except Exception as error:  # of many kinds; its text shows the value
            raise self._invalid(str(error)) from None

    def _invalid(self, text: str) -> InvalidMessage:
        """Name the field, which the library's text begins with. What follows may quote the value."""
        path, end = "payload", 0
        while found := _FIELD.match(text, end):
            path, end = f"{path}.{found[1]}", found.end()
        if unknown := _UNKNOWN.match(text, end):
            return InvalidMessage(f"{path}.{unknown[1]}", f"{self.name} does not have it")
        return InvalidMessage(path, f"it does not fit {self.name}")

    def decode(self, data: bytes) -> Any:
        indexes, start = files.decoded(data)
        name = self._names.get(indexes)
        if name != self.name:
            raise ValueError(f"it is not a {self.name}, but {name or 'another message of its file'}")
        message = self._message()
        try:
            message.ParseFromString(data[start:])
        except DecodeError:
            raise ValueError("it is cut short or not Protobuf") from None
        try:
            payload = json_format.MessageToDict(
                message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
            return with_integers(payload, self._descriptor)
        except Exception as error:  # of many kinds, as for dates that JSON does not have; its text shows the value
            raise ValueError(f"it has no JSON ({type(error).__name__})") from None


class ProtobufSerializer(RegistrySerializer):
    """Writes and reads Protobuf."""

    format = "PROTOBUF"
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
        self._path = message
        self._message = _class_of(message)
        self._file_text = files.text_of(self._message.DESCRIPTOR)
        super().__init__(registry=registry, subject=subject, auto_register=auto_register)

    def local_text(self, event_type: str, topic: str) -> str:
        return self._file_text

    def name_of_local(self, event_type: str, topic: str) -> str:
        return self._path

    def make_codec(self, text: str, references: References) -> Codec:
        """The generated class reads and writes all versions, as Protobuf's fields are known by number."""
        return ProtobufCodec(self._message, text)

    def readable(self, text: str) -> str:
        readable = files.readable(text)
        if readable is None:
            raise SchemaNotFound(
                "The registry has this schema only as .proto text, which cannot be compared with a generated class."
            )
        return readable


def _class_of(path: str) -> Any:
    made: Any = import_function("SERIALIZERS", path)
    if not (isinstance(made, type) and issubclass(made, Message)):
        raise ImproperlyConfigured(f"message must be the dotted path of a generated class, not {path!r}.")
    return made
