"""What ``json_format`` does not do with payloads: integers of 64 bits stay numbers, and nothing is changed silently."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from django_outbox.serializers.misfit import Misfit, bytes_of_base64, keeps_digits

Change = Callable[[Any], Any]
Check = Callable[[Any], None]

_LONG = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
_INTEGER = (*_LONG, FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32)
_PACKED = {FieldDescriptor.CPPTYPE_DOUBLE: struct.Struct("d"), FieldDescriptor.CPPTYPE_FLOAT: struct.Struct("f")}
_GOOGLE = "google.protobuf."
_ANY = f"{_GOOGLE}Any"
_FREE = frozenset(_GOOGLE + name for name in ("Struct", "Value", "ListValue"))
_WRAPPERS = frozenset(
    f"{_GOOGLE}{name}Value"
    for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)
_WITH_VALUE = _WRAPPERS | _FREE | {_GOOGLE + name for name in ("Any", "Timestamp", "Duration", "FieldMask")}
"""Their JSON is the member ``value`` within an ``Any``."""


def with_integers(payload: Any, descriptor: Descriptor) -> Any:
    """Return a payload of ``MessageToDict``, which has integers of 64 bits as text, with numbers.

    Raises:
        Exception: of many kinds, for types that this process does not know.
    """
    name = descriptor.full_name
    if name in _WRAPPERS:
        change = _changes_of(descriptor).get("value")
        return change(payload) if change else payload
    if name in _FREE or not isinstance(payload, dict):
        return payload
    if name == _ANY:
        return _any_with_integers(payload)
    changes = _changes_of(descriptor)
    changed = {}
    for key, value in payload.items():
        change = changes.get(key) if key[0] != "[" else _change_of(descriptor.file.pool.FindExtensionByName(key[1:-1]))
        changed[key] = change(value) if change else value
    return changed


def _any_with_integers(payload: dict[str, Any]) -> Any:
    if not payload:
        return payload
    inner = _type_of(payload)
    if inner.full_name in _WITH_VALUE:
        return {**payload, "value": with_integers(payload["value"], inner)}
    members = {name: value for name, value in payload.items() if name != "@type"}
    return {"@type": payload["@type"], **with_integers(members, inner)}


def _type_of(payload: dict[str, Any]) -> Descriptor:
    return descriptor_pool.Default().FindMessageTypeByName(payload["@type"].rpartition("/")[2])


@lru_cache(1000)
def _changes_of(descriptor: Descriptor) -> Mapping[str, Change | None]:
    return {field.name: _change_of(field) for field in descriptor.fields}


def _change_of(field: FieldDescriptor) -> Change | None:
    inner = field.message_type
    if inner is None:
        return _integers if field.cpp_type in _LONG else None
    if inner.GetOptions().map_entry:
        change = _change_of(inner.fields_by_name["value"])
        return change and (lambda value: {key: change(item) for key, item in value.items()})
    return partial(_messages, inner)


def _integers(value: Any) -> Any:
    return [int(item) for item in value] if isinstance(value, list) else int(value)


def _messages(descriptor: Descriptor, value: Any) -> Any:
    # The items of a ListValue, which stay, or of a repeated field.
    return (
        [with_integers(item, descriptor) for item in value]
        if isinstance(value, list)
        else with_integers(value, descriptor)
    )


def require_exact(payload: Any, descriptor: Descriptor) -> None:
    """Check what ``ParseDict`` would change without an error: it checks the rest.

    Raises:
        Misfit: something would be changed.
    """
    name = descriptor.full_name
    if name in _FREE:
        _require_exact_numbers(payload)
    elif name in _WRAPPERS:
        if check := _checks_of(descriptor).get("value"):
            check(payload)
    elif not isinstance(payload, dict):
        return
    elif name == _ANY:
        _require_exact_any(payload)
    else:
        checks = _checks_of(descriptor)
        for key, value in payload.items():
            if check := checks.get(key):
                _with_place(f".{key}", check, value)


def _require_exact_any(payload: dict[str, Any]) -> None:
    try:
        inner = _type_of(payload)
    except Exception:  # ParseDict refuses it
        return
    require_exact(payload.get("value") if inner.full_name in _WITH_VALUE else payload, inner)


@lru_cache(1000)
def _checks_of(descriptor: Descriptor) -> Mapping[str, Check]:
    """The checks by name of the field, if it needs one."""
    checks: dict[str, Check] = {}
    for field in descriptor.fields:
        if (check := _check_of(field)) is not None:
            checks[field.name] = checks[field.json_name] = check
    return checks


def _check_of(field: FieldDescriptor) -> Check | None:
    inner = field.message_type
    if inner is None:
        check = _check_of_single(field)
        return check and partial(_require_exact_items, check)
    if inner.GetOptions().map_entry:
        key, value = inner.fields_by_name["key"], inner.fields_by_name["value"]
        check = _check_of(value)
        has_integers = key.cpp_type in _INTEGER
        return partial(_require_exact_map, has_integers, check) if check or has_integers else None
    if inner.full_name in _FREE:
        return _require_exact_numbers
    return partial(_require_exact_items, partial(_require_exact_message, inner)) if _needs_checks(inner) else None


def _check_of_single(field: FieldDescriptor) -> Check | None:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _require_base64
    packed = _PACKED.get(field.cpp_type)
    return partial(_require_exact_number, packed) if packed else None


def _needs_checks(descriptor: Descriptor) -> bool:
    """True if a message has a field to check, or one within it has."""
    seen = {descriptor.full_name: descriptor}
    left = [descriptor]
    while left:
        current = left.pop()
        if current.full_name in _FREE or current.full_name == _ANY:
            return True
        for field in current.fields:
            inner = field.message_type
            if inner is None:
                if _check_of_single(field) or (current.GetOptions().map_entry and field.cpp_type in _INTEGER):
                    return True
            elif inner.full_name not in seen:
                seen[inner.full_name] = inner
                left.append(inner)
    return False


def _require_exact_message(descriptor: Descriptor, value: Any) -> None:
    require_exact(value, descriptor)


def _with_place(place: str, check: Check, value: Any) -> None:
    try:
        check(value)
    except Misfit as error:
        error.path.append(place)
        raise


def _require_exact_items(check: Check, value: Any) -> None:
    if isinstance(value, list):
        for number, item in enumerate(value):
            _with_place(f"[{number}]", check, item)
    else:
        check(value)


def _require_exact_map(has_integers: bool, check: Check | None, value: Any) -> None:
    if not isinstance(value, dict):
        return
    if has_integers and not all(_is_canonical(key) for key in value):
        raise Misfit("", reason="its keys must be integers without leading zeros, signs or spaces")
    if check is not None:
        for item in value.values():
            _with_place("[*]", check, item)


def _is_canonical(key: str) -> bool:
    try:
        return str(int(key)) == key
    except ValueError:
        return False


def _require_exact_number(packed: struct.Struct, value: Any) -> None:
    if type(value) is int and not keeps_digits(packed, value):
        raise Misfit("", reason="a floating-point number cannot represent all digits of this integer")


def _require_exact_numbers(value: Any) -> None:
    """Numbers of a ``Struct`` are doubles."""
    if isinstance(value, dict):
        for item in value.values():
            _with_place("[*]", _require_exact_numbers, item)
    elif isinstance(value, list):
        _require_exact_items(_require_exact_numbers, value)
    else:
        _require_exact_number(_PACKED[FieldDescriptor.CPPTYPE_DOUBLE], value)


def _require_base64(value: Any) -> None:
    """Protobuf takes both alphabets of base64, with padding or without, and skips all other characters."""
    if type(value) is not str:
        return
    text = value.replace("-", "+").replace("_", "/").rstrip("=")
    if bytes_of_base64(text + "=" * (-len(text) % 4)) is None:
        raise Misfit("bytes as base64", value)
