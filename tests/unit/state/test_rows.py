"""Rows that a transaction has locked."""

from __future__ import annotations

from typing import Any

import pytest

from django_outbox.state.rows import LockedMessage


@pytest.mark.parametrize("text", ['{"order": 1}', ' \n{"order": 1}\n'])
def test_json_is_read_as_it_may_have_been_edited_by_hand(text: str) -> None:
    values: dict[str, Any] = dict.fromkeys(LockedMessage.__dataclass_fields__, None)
    message = LockedMessage(**{**values, "payload_json": text, "headers_json": text})
    assert message.payload == message.headers == {"order": 1}
    assert message.payload is not message.payload
