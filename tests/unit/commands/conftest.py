"""Event types of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def own_orders() -> Iterator[None]:
    """Nothing is declared yet, and all types of orders have one topic."""
    from tests.support.declaring import own_event_types
    from tests.support.overrides import outbox_settings

    with own_event_types(), outbox_settings(ROUTES={"order.*": "orders"}):
        yield
