"""A consumer with its broker, and an inbox without one."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(params=["counted", "steady"])
def pipeline(request: pytest.FixtureRequest) -> Any:
    """With a consumer that has just started, or one that has been at work for a while."""
    from tests.support.outbox import Pipeline

    return Pipeline(steady=request.param == "steady")


@pytest.fixture
def receiver() -> Any:
    """What the inbox needs of a consumer."""
    from tests.support.inbox import Receiver

    return Receiver()
