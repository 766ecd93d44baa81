"""Fixtures of the crash points."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.watched.processes import Zygote


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Kill nobody while the table is written."""
    if config.option.record_steps:
        kills = [item for item in items if "points" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=kills)
        items[:] = [item for item in items if item not in kills]


@pytest.fixture(scope="session")
def zygote(django_db_setup: None) -> Iterator[Zygote]:
    """Starts watched processes on the test database."""
    from django.db import connection

    server = os.environ["DATABASE_URL"].rpartition("/")[0]
    zygote = Zygote({**os.environ, "DATABASE_URL": f"{server}/{connection.settings_dict['NAME']}"})
    yield zygote
    zygote.close()
