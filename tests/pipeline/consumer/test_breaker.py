"""What the circuit breaker counts for which handler, and which pause the success of a message ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from django_outbox.consumer.breaker import Breaker
from django_outbox.consumer.pauses import Pauses
from django_outbox.handlers.handler import Handler
from django_outbox.handlers.registry import GroupHandlers, Registry
from django_outbox.models import Pause
from django_outbox.models.lengths import HANDLER_LENGTH
from django_outbox.state import pauses as state
from tests.support.clock import Clock
from tests.support.locked import locked_by_another
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db


def bill(event: Any) -> None: ...


def ship(event: Any) -> None: ...


BILL, SHIP = f"{__name__}.bill", f"{__name__}.ship"


@pytest.fixture(autouse=True)
def settings_of_the_breaker() -> Iterator[None]:
    with outbox_settings(CIRCUIT_BREAKER={"FAILURES": 1, "PAUSE": 60}):
        yield


class Group:
    """A consumer's circuit breaker, with the handlers of one event type."""

    def __init__(self, *functions: Callable[[Any], None]) -> None:
        registry = Registry()
        for function in functions:
            registry.register("order.created", function)
        handlers = GroupHandlers(registry, "tests")
        self.handlers: list[Handler] = list(handlers.find("order.created", "outbox"))
        self.pauses = Pauses("default", handlers, Clock())
        self.breaker = Breaker("default", "tests", self.pauses)


def trip(handler: str) -> None:
    state.trip("tests", handler, timedelta(minutes=1), "failed", using="default")


def paused() -> list[str]:
    return list(Pause.objects.order_by("handler").values_list("handler", flat=True))


@pytest.mark.parametrize(("length", "is_paused"), [(HANDLER_LENGTH, True), (HANDLER_LENGTH + 1, False)])
def test_a_handler_is_paused_if_its_name_can_be_stored(length: int, is_paused: bool) -> None:
    def handle(event: Any) -> None: ...

    handle.__qualname__ = "h" * (length - len(f"{__name__}."))
    group = Group(handle)
    (handler,) = group.handlers
    assert len(handler.name) == length
    group.breaker.failed(group.handlers, ValueError("no"))
    assert paused() == [handler.name] * is_paused


def test_success_ends_the_pauses_of_its_own_handlers_only() -> None:
    trip(SHIP)
    trip("shop.another")
    group = Group(bill, ship)
    group.pauses.refresh()
    group.breaker.succeeded(group.handlers)
    assert paused() == ["shop.another"]


def test_success_leaves_the_pause_of_an_operator_who_has_taken_it_over() -> None:
    trip(SHIP)
    group = Group(ship)
    group.pauses.refresh()
    state.pause("tests", handler=SHIP, reason="a bug", by="ada", using="default")
    group.breaker.succeeded(group.handlers)
    assert paused() == [SHIP]


def test_success_waits_for_a_pause_that_another_transaction_uses_and_ends_it() -> None:
    trip(SHIP)
    group = Group(ship)
    group.pauses.refresh()
    with locked_by_another():
        group.breaker.succeeded(group.handlers)
    assert paused() == []


def test_the_log_names_the_handler_that_is_paused_and_resumed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "django_outbox.consumer")
    group = Group(bill)
    group.breaker.failed(group.handlers, ValueError("no"))
    group.pauses.refresh()
    group.breaker.succeeded(group.handlers)
    found = [(record.__dict__["action"], record.__dict__.get("handler")) for record in caplog.records]
    assert found == [("paused", BILL), ("resumed", BILL)]
