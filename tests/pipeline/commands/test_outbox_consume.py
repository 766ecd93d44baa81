"""`outbox_consume --list`: which handlers there are and which command runs them, told without any server."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError, SystemCheckError

from django_outbox import Event
from django_outbox.handlers.registry import Registry
from django_outbox.management.commands.outbox_consume import list_handlers
from tests.support.overrides import outbox_settings


@dataclass
class Order:
    id: int


def ship(order: Order) -> None: ...


def pack(orders: list[Order], event: Event) -> None: ...


def thank(event: Event) -> None: ...


def bill(event: Event) -> None: ...


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.register("order.paid", thank, group="mailers")
    registry.register("order.created", ship)
    registry.register("order.created", pack, topic="orders")
    registry.register("order.created", bill, group="tests")
    return registry


def lines(text: str) -> list[str]:
    return [re.sub("  +", " | ", line) for line in text.splitlines()]


def test_handlers_are_listed_by_type_and_in_the_order_in_which_they_run(registry: Registry) -> None:
    here = __name__
    assert lines(list_handlers(registry)) == [
        "EVENT TYPE | TOPIC | GROUP | BATCH | PAYLOAD | HANDLER",
        f"order.created | any | tests | - | Order | {here}.ship",
        f"order.created | orders | tests | - | list[Order] | {here}.pack",
        f"order.created | any | tests | - | Event | {here}.bill",
        f"order.paid | any | mailers | - | Event | {here}.thank",
        "",
        "COMMAND | GROUP | HANDLERS | TOPICS",
        "outbox_consume | tests | 3 | orders, outbox",
        "outbox_consume --group mailers | mailers | 1 | outbox",
    ]


def test_batch_handlers_show_how_many_they_take(registry: Registry) -> None:
    def count(orders: list[Order]) -> None: ...

    registry.register("order.counted", count, batch=500)
    listed = lines(list_handlers(registry))
    assert any(line.startswith("order.counted | any | tests | 500 | list[Order] | ") for line in listed)


def test_columns_are_aligned(registry: Registry) -> None:
    table = list_handlers(registry).partition("\n\n")[0].splitlines()
    assert len({line.index(__name__) if __name__ in line else line.index("HANDLER") for line in table}) == 1
    assert not any(line.endswith(" ") for line in table)


def test_with_a_group_only_what_its_consumer_runs_is_listed(registry: Registry) -> None:
    assert lines(list_handlers(registry, "mailers"))[1:] == [
        f"order.paid | any | mailers | - | Event | {__name__}.thank",
        "",
        "COMMAND | GROUP | HANDLERS | TOPICS",
        "outbox_consume --group mailers | mailers | 1 | outbox",
    ]
    assert lines(list_handlers(registry, "tests-2"))[-1] == (
        "outbox_consume --group tests-2 | tests-2 | 3 | orders, outbox"
    )


def test_project_without_a_handler_is_told_how_to_write_one() -> None:
    for group in (None, "mailers"):
        text = list_handlers(Registry(), group)
        assert text.startswith("No handlers are registered. Write one in handlers.py of an installed app:\n")
        assert '    @handler("order.created")\n    def ship(event: Event) -> None:\n' in text


def test_group_without_a_handler_is_told_so() -> None:
    registry = Registry()
    registry.register("order.paid", thank, group="mailers")
    assert list_handlers(registry, "tests") == "The group tests has no handlers."


def test_command_lists_the_handlers_of_all_apps() -> None:
    out = io.StringIO()
    call_command("outbox_consume", "--list", stdout=out)
    assert re.search(
        r"^test\.typed +any +tests +- +Parcel +tests\.support\.app\.handlers\.typed$", out.getvalue(), re.M
    )


@pytest.mark.parametrize("arguments", [[], ["--list"], ["--drain"]])
@pytest.mark.django_db
def test_an_unknown_group_is_an_error_that_names_the_known_ones(arguments: list[str]) -> None:
    with pytest.raises(CommandError) as raised:
        call_command("outbox_consume", "--group", "report", *arguments)
    assert str(raised.value) == (
        "--group: 'report' is not a consumer group of this project. Expected one of: tests, reports. "
        "Use CONSUMER_GROUP to rename the main group."
    )


@pytest.mark.django_db  # some of Django's checks look at the database
def test_settings_are_checked_all_the_same() -> None:
    with outbox_settings(TOPICS="x"), pytest.raises(SystemCheckError, match=r"unknown key 'TOPICS'"):
        call_command("outbox_consume", "--list", skip_checks=False)
