"""The examples of docs/events.rst, run in their order as the modules whose names they bear."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from docutils import nodes
from docutils.core import publish_doctree

from django_outbox import InvalidMessage
from django_outbox.models import OutboxMessage
from django_outbox.operations.checks.event_types import check_event_types
from tests.support.declaring import only_handlers, own_event_types
from tests.support.outbox import Pipeline
from tests.support.overrides import outbox_settings
from tests.support.processes import ROOT

pytestmark = pytest.mark.django_db

PAGE = "docs/events.rst"


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[str], Callable[[str], Any]]]:
    """The modules on the page, and a function that runs a piece in the module that its first line names."""
    page = publish_doctree((ROOT / PAGE).read_text(), settings_overrides={"syntax_highlight": "none"})
    monkeypatch.setitem(sys.modules, "orders", ModuleType("orders"))

    def run(block: str) -> Any:
        name = block.partition(".py")[0].removeprefix("# ").replace("/", ".")
        if name not in sys.modules:
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        exec(block, vars(sys.modules[name]))  # noqa: S102
        return sys.modules[name]

    with own_event_types(), only_handlers():
        blocks = [each.astext() for each in page.findall(nodes.literal_block)]
        yield [each for each in blocks if each.startswith("# orders/")], run


def handle_all(handlers: Any) -> None:
    pipeline = Pipeline()
    pipeline.on("order.created", handlers.ship)
    pipeline.run()
    assert not OutboxMessage.objects.exclude(status="consumed").exists()


def test_the_examples_run_as_printed(
    examples: tuple[list[str], Callable[[str], Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    (types, services, handlers, *versions, other), run = examples
    run(types)
    orders = run(services)
    shipping = run(handlers)
    orders.place_order(7)
    with pytest.raises(InvalidMessage) as error:
        orders.place_wrong_order()
    assert f"\n    InvalidMessage: {error.value}\n" in (ROOT / PAGE).read_text()
    handle_all(shipping)
    assert capsys.readouterr().out.splitlines() == ["order.created v1: 1 items", "order.created v1: 0 items"]

    orders.place_order(8)  # stored by the old version
    for each in versions:
        run(each)
    orders.place_order(9)
    handle_all(shipping)
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["v1:", "v1:", "v2:", "v2:"]

    run(other)
    with outbox_settings(EVENT_TYPES="required"):
        assert check_event_types() == []
