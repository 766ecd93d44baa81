"""A pytest plugin that writes the first failure of a run, so that a fault is not judged by an exit code alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FILE = "MUTANTS_VERDICT"
"""The environment variable with the path of the file to write."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: Any = yield
    path = Path(os.environ[FILE])
    if report.failed and call.excinfo is not None and not path.exists():
        kinds = [kind.__name__ for kind in call.excinfo.type.__mro__]
        path.write_text(json.dumps({"test": item.nodeid, "when": call.when, "kinds": kinds}))
    return report


def pytest_collection_finish() -> None:
    import django_outbox

    # An installed package would be tested in place of the copy.
    assert Path(django_outbox.__file__).is_relative_to(Path.cwd()), django_outbox.__file__
