"""The example of docs/migrating.rst for Celery's tasks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from tests.support.examples import module_of_page


def test_a_task_runs_under_both_names(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def shared_task(*, name: str) -> Callable[[object], object]:
        names.append(name)
        return lambda function: function

    celery = ModuleType("celery")
    vars(celery)["shared_task"] = shared_task
    monkeypatch.setitem(sys.modules, "celery", celery)
    tasks = module_of_page("docs/migrating.rst", "shop/tasks.py")
    assert names == [tasks.send_invoice.module_path]
    assert tasks.send_invoice_of_celery(7) is None
