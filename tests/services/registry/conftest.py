from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.servers.apicurio import Apicurio


@pytest.fixture(scope="session")
def apicurio() -> Iterator[Apicurio]:
    with Apicurio() as service:
        yield service
