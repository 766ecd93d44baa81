"""The examples of docs/migrating.rst, run as the modules whose names they bear, beside records of the old sender."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from django_outbox.brokers.base import ReceivedRecord
from django_outbox.brokers.memory import MemoryBroker
from django_outbox.handlers.registry import registry
from tests.support.declaring import only_handlers
from tests.support.examples import module_of_page
from tests.support.outbox import Pipeline, memory_broker, put, statuses
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db

Run = Callable[[str], ModuleType]


class Table(list[dict[str, Any]]):
    """What the examples need of a model and its manager."""

    @property
    def objects(self) -> Table:
        return self

    def create(self, **fields: Any) -> SimpleNamespace:
        self.append(fields)
        return SimpleNamespace(pk=len(self), id=uuid.uuid4(), **fields)

    def filter(self, **wanted: Any) -> SimpleNamespace:
        return SimpleNamespace(exists=lambda: wanted in self)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The models that the examples import."""
    tables = {name: Table() for name in ("Order", "Shipment", "Published", "Received")}
    for package in ("shop", "django_outbox_pattern"):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
        module = ModuleType(f"{package}.models")
        vars(module).update(tables)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return SimpleNamespace(**tables)


@pytest.fixture
def run(models: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A function that runs the example whose first line names this module."""

    def run_module(name: str) -> ModuleType:
        module = module_of_page("docs/migrating.rst", f"shop/{name}.py")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return module

    with only_handlers():
        yield run_module


def test_the_handler_takes_records_of_the_old_producer_and_messages_of_the_outbox(
    run: Run, models: SimpleNamespace
) -> None:
    run("handlers")
    with outbox_settings(**run("settings").OUTBOX):
        broker = memory_broker()
        put(broker, ReceivedRecord("orders", 0, 0, b"41", b'{"order_id": 41}', ()))
        pipeline = pipeline_of(broker)
        assert run("services").place_order("tent").pk == 1
        pipeline.run()
    assert statuses() == ["consumed"]
    assert models.Shipment == [{"order_id": 41}, {"order_id": 1}]


def test_the_handler_skips_what_came_by_stomp(run: Run, models: SimpleNamespace) -> None:
    run("consuming")
    orders = run("orders")
    with outbox_settings(ROUTES={"order.*": "orders"}):
        orders.place_order("tent")
        pipeline = pipeline_of(memory_broker())
        pipeline.relay.run_once()
        models.Received.append({"msg_id": event_id_of(pipeline)})
        orders.place_order("stove")
        pipeline.run()
    assert statuses() == ["consumed", "consumed"]
    assert len(models.Published) == 2
    assert models.Shipment == [{"order_id": 2}]


def pipeline_of(broker: MemoryBroker) -> Pipeline:
    """One whose handlers are those of the examples."""
    pipeline = Pipeline(broker)
    pipeline.handlers = registry
    return pipeline


def event_id_of(pipeline: Pipeline) -> str:
    (record,) = pipeline.broker.records("orders")
    return dict(record.headers)["ce_id"].decode()
