"""The payload and the keys of all measurements. Imports nothing, so other packages are measured with them as well."""

from __future__ import annotations

import json
from typing import Any

PAYLOAD_BYTES = 200
KEYS = 1000


def payload(number: int = 0) -> dict[str, Any]:
    """A payload whose JSON has 200 bytes."""
    body = {"order_id": number, "customer": "Ada Lovelace", "currency": "EUR", "text": ""}
    return {**body, "text": "x" * (PAYLOAD_BYTES - len(json.dumps(body)))}


def key(number: int) -> str:
    """One of a thousand keys."""
    return f"customer-{number % KEYS}"
