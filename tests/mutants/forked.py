"""A pytest plugin that lets one process run pytest several times, as mutmut does: itself, then in a fork per mutant.

The first run sets Django up, so the later ones must take it as it is. They make a database once and then copies of it,
because migrations would take longer than most tests. ``MUTANTS_DATABASE=postgresql`` takes another than SQLite.
"""

from __future__ import annotations

import os
import re
from functools import partial
from typing import Any

import pytest

from tests.support.servers.postgres import PostgreSQL
from tests.support.servers.process import make_directory

made: str | None = None
"""The database to copy, once a run has made it."""
servers: list[PostgreSQL] = []
UNFIT = (
    "consumer/test_inbox_failures.py::test_failures_that_no_handler_made_are_told_apart",
    "consumer/test_inbox_faults.py::test_a_claimed_event_is_not_claimed_again_at_once",
    "consumer/test_inbox_poison.py::test_what_a_mapper_fails_on_or_nobody_wants_is_dead_either_way",
    "handlers/test_handlers.py::test_payload_that_does_not_fit_counts_as_a_failure_and_the_row_says_why",
    "state/test_failures.py::test_payloads_that_do_not_fit_are_told_apart_by_their_handlers",
    "tasks/test_running.py::test_a_task_that_cannot_succeed_is_dead_at_once",
)
"""Tests that look at the calls themselves: mutmut puts its own between them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with tests whose names have words of the changed function; of equals, the fast ones stay first."""
    items[:] = [item for item in items if not any(name in item.nodeid for name in UNFIT)]
    changed = _words(os.environ.get("MUTANT_UNDER_TEST", ""))
    items.sort(key=lambda item: -len(changed & _words(item.nodeid)))


def _words(name: str) -> set[str]:
    return {word.removesuffix("s") for word in re.findall("[a-z]{3,}", name.lower())}


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    from django.conf import settings

    config.option.database = os.environ.get("MUTANTS_DATABASE", "sqlite")
    if not settings.configured:
        if config.option.database == "postgresql":
            servers.append(PostgreSQL().start())  # for all runs; the watchdog stops it
            config.option.database_url = servers[0].url
        return
    # As those of pytest-xdist: they start no servers, and take their settings from the process before them.
    config.workerinput = {"database": "of mutmut", "kafka_url": None, "workerid": ""}  # type: ignore[attr-defined]
    _use_a_copy(config)


def _use_a_copy(config: pytest.Config) -> None:
    from django.db import connection

    if made is not None:
        connection.creation.create_test_db = _copy
        return
    if connection.vendor == "sqlite":
        file = make_directory("test-mutants") / "db.sqlite3"  # the one of the first run is gone
        connection.settings_dict |= {
            "NAME": str(file),
            "TEST": {**connection.settings_dict["TEST"], "NAME": f"{file}.test"},
        }
    config.option.reuse_db = True  # do not delete it in the end
    config.add_cleanup(partial(_keep, connection.settings_dict["NAME"]))


def _keep(name: str) -> None:
    """Take the database of this run, if a test has needed one, as the one to copy."""
    global made
    from django.db import connection

    connection.close()
    if connection.settings_dict["NAME"] != name:
        made = str(connection.settings_dict["NAME"])


def _copy(*args: Any, **options: Any) -> str:
    """In place of Django's ``create_test_db``."""
    from django.db import connection

    connection.close()
    connection.settings_dict["NAME"] = made
    suffix = str(os.getpid())
    connection.creation.clone_test_db(suffix, verbosity=0)
    connection.settings_dict |= connection.creation.get_test_db_clone_settings(suffix)
    return str(connection.settings_dict["NAME"])
