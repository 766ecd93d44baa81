"""The API reference of the site has every public name. That each can be imported, the build of the site checks."""

from __future__ import annotations

import inspect
import re
from types import ModuleType

import pytest

import django_outbox.testing
from django_outbox import signals
from django_outbox.brokers import base as brokers
from django_outbox.observability.tracing import base as tracing
from django_outbox.serializers import base as serializers
from tests.support.processes import ROOT
from tests.unit.project.test_docs import HANDBOOK

SITE = ROOT / "docs" / "site"
DOCUMENTED = {
    name
    for page in SITE.glob("api*.rst")
    for name in re.findall(r"^\.\. (?:auto|py:)(?!module)\w+:: ([\w.]+)", page.read_text(), re.MULTILINE)
}


def test_every_public_name_is_documented_and_no_other_one_of_these_modules() -> None:
    for module in (django_outbox, django_outbox.testing):
        prefix = f"{module.__name__}."
        documented = {name.removeprefix(prefix) for name in DOCUMENTED if name.rpartition(".")[0] == module.__name__}
        assert documented == set(module.__all__)


def test_the_backend_of_tasks_is_documented() -> None:
    assert "django_outbox.tasks.OutboxBackend" in DOCUMENTED  # needs a newer Django than some runs have


def test_every_signal_is_documented() -> None:
    names = {name for name in vars(signals) if name.startswith("message_")}
    assert names
    assert {f"django_outbox.signals.{name}" for name in names} <= DOCUMENTED


@pytest.mark.parametrize("module", [brokers, serializers])
def test_every_class_that_a_backend_needs_is_documented(module: ModuleType) -> None:
    classes = inspect.getmembers(module, lambda each: inspect.isclass(each) and each.__module__ == module.__name__)
    assert classes
    assert {f"{module.__name__}.{name}" for name, _ in classes} <= DOCUMENTED


def test_the_base_of_tracing_backends_is_documented() -> None:
    assert f"{tracing.__name__}.Tracing" in DOCUMENTED


def test_every_name_that_a_page_imports_is_documented() -> None:
    found = re.findall(
        r"^ *from (django_outbox(?:\.[\w.]+)?) import (.+)$",
        "\n".join(page.read_text() for page in HANDBOOK),
        re.MULTILINE,
    )
    imported = {f"{module}.{name}" for module, names in found for name in names.split(", ")}
    assert imported
    assert sorted(imported - DOCUMENTED) == []
