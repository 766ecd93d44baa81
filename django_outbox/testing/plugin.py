"""pytest's plugin: the fixture ``outbox``, and an empty memory broker for each test.

pytest loads it before Django is set up, in any project of the environment, so it imports nothing of Django until it is used.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from django_outbox.testing.tools import Outbox


@pytest.fixture
def outbox(db: None) -> Outbox:
    """The helpers of ``django_outbox.testing`` as methods, with access to the database."""
    from django_outbox.testing.tools import Outbox

    return Outbox()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Clear the memory broker, if anything has used it."""
    if memory := sys.modules.get("django_outbox.brokers.memory"):
        memory.MemoryBroker.clear()
