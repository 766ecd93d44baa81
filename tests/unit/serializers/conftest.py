from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def registry() -> Iterator[object]:
    from tests.support.registry import stub_registry

    with stub_registry() as stub:
        yield stub
