from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A registry whose schemas serialize all events ``order.*``, and that is soon asked again after a failure."""
    from tests.support.overrides import outbox_settings
    from tests.support.registry import stub_registry
    from tests.support.serializing import avro_settings

    monkeypatch.setattr("django_outbox.serializers.outage.BACKOFF_SECONDS", (0.01, 0.05))
    monkeypatch.setattr("django_outbox.serializers.outage.LEAST_SECONDS", 0.05)
    with stub_registry() as stub, outbox_settings(SERIALIZERS=avro_settings(stub.url)):
        yield stub
