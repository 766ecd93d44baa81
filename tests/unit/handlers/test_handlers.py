"""Handlers: each runs once for the events that it wants, in order, async or not, and is found by itself."""

from __future__ import annotations

import functools
import importlib
import re
import sys
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import pytest
from django.conf import settings as django_settings
from django.test import override_settings

from django_outbox import Event, Reject, Retry, handler
from django_outbox.exceptions import HandlersNotImportable, PayloadMismatch
from django_outbox.handlers import registry as handlers_module
from django_outbox.handlers.handler import Handler
from django_outbox.handlers.registry import GroupHandlers, Registry
from tests.support.overrides import outbox_settings

EVENT = Event(type="order.created", payload={"id": 1}, id="17")

MakeApp = Callable[[str], str]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """An empty registry in the place of the project's."""
    importlib.import_module(
        "tests.support.app.handlers"
    )  # or they would register here, and never again in the project's
    registry = Registry()
    monkeypatch.setattr(handlers_module, "registry", registry)
    return registry


@pytest.fixture
def make_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeApp:
    """Make an app with this source as its `handlers` module; returns the app's name."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(source: str) -> str:
        name = f"app_{uuid.uuid4().hex}"
        app = tmp_path / name
        app.mkdir()
        (app / "__init__.py").touch()
        (app / "handlers.py").write_text(f"from django_outbox import handler\n{source}\n")
        importlib.invalidate_caches()
        return name

    return make


def installed(*names: str) -> Any:
    return override_settings(INSTALLED_APPS=[*django_settings.INSTALLED_APPS, *names])


def run(registry: Registry, event: Event = EVENT, *, topic: str = "outbox", group: str = "tests") -> list[str]:
    """Call the handlers as the consumer does; returns their names without the path."""
    found = GroupHandlers(registry, group).find(event.type, topic)
    for each in found:
        each(event)
    return [each.name.rpartition(".")[2] for each in found]


# Which handlers run


def test_handlers_of_a_type_run_in_the_order_of_registration(registry: Registry) -> None:
    ran = []
    for name in ("z", "a", "m"):
        handler("order.created")(functools.partial(lambda name, event: ran.append((name, event.id)), name))
    handler("order.paid")(lambda event: ran.append(("other", event.id)))
    run(registry)
    assert ran == [("z", "17"), ("a", "17"), ("m", "17")]


def test_handler_runs_for_its_type_only(registry: Registry) -> None:
    @handler("order.created")
    def created(event: Event) -> None: ...

    for other in ("order.create", "order.created.late", "Order.created", "*"):
        assert GroupHandlers(registry, "tests").find(other, "outbox") == ()


def test_topic_limits_what_a_handler_gets(registry: Registry) -> None:
    @handler("order.created")
    def all_of_them(event: Event) -> None: ...

    @handler("order.created", topic="orders")
    def one_topic(event: Event) -> None: ...

    assert run(registry) == ["all_of_them"]
    assert run(registry, topic="orders") == ["all_of_them", "one_topic"]


@pytest.fixture
def grouped(registry: Registry) -> Registry:
    """Handlers without a group, of the main one, which is called tests, and of another."""

    @handler("order.created")
    def of_none(event: Event) -> None: ...

    @handler("order.created", group="tests")
    def of_main(event: Event) -> None: ...

    @handler("order.created", group="mailers")
    def of_mailers(event: Event) -> None: ...

    @handler("order.created", topic="orders", group="mailers")
    def of_mailers_from_orders(event: Event) -> None: ...

    return registry


def names_of(handlers: list[Handler]) -> list[str]:
    return [each.name.rpartition(".")[2] for each in handlers]


def test_main_group_runs_the_handlers_without_a_group_and_its_own(grouped: Registry) -> None:
    assert run(grouped) == ["of_none", "of_main"]
    assert names_of(grouped.for_group("tests")) == ["of_none", "of_main"]
    assert not grouped.is_inbox_group("tests")


def test_group_that_handlers_name_runs_these_only(grouped: Registry) -> None:
    assert run(grouped, group="mailers") == ["of_mailers"]
    assert run(grouped, topic="orders", group="mailers") == ["of_mailers", "of_mailers_from_orders"]
    assert names_of(grouped.for_group("mailers")) == ["of_mailers", "of_mailers_from_orders"]
    assert grouped.is_inbox_group("mailers")


def test_group_that_no_handler_names_takes_the_place_of_the_main_one(grouped: Registry) -> None:
    assert run(grouped, group="tests-2") == ["of_none", "of_main"]
    assert names_of(grouped.for_group("tests-2")) == ["of_none", "of_main"]
    assert not grouped.is_inbox_group("tests-2")


def test_the_setting_says_which_group_is_the_main_one(grouped: Registry) -> None:
    with outbox_settings(CONSUMER_GROUP="mailers"):
        assert run(grouped, group="mailers") == ["of_none", "of_mailers"]
        assert run(grouped, group="tests") == ["of_main"]
        assert [grouped.is_inbox_group(group) for group in ("mailers", "tests", "other")] == [False, True, False]
    assert grouped.named_groups == {"tests", "mailers"}


def test_the_main_group_comes_before_those_that_handlers_name(grouped: Registry) -> None:
    assert grouped.groups == ["tests", "mailers"]
    with outbox_settings(CONSUMER_GROUP="others"):
        assert grouped.groups == ["others", "mailers", "tests"]


def test_a_consumer_reads_by_default_what_is_published_named_or_mapped(grouped: Registry) -> None:
    with outbox_settings(TOPIC="shop", ROUTES={"mail.*": "mails"}, INBOX={"legacy": dict, "left-alone": None}):
        assert GroupHandlers(grouped, "tests").default_topics == {"shop", "mails", "legacy"}
        assert GroupHandlers(grouped, "mailers").default_topics == {"shop", "mails", "legacy", "orders"}


def test_one_function_may_want_several_types_topics_and_groups(registry: Registry) -> None:
    @handler("order.created", topic="a")
    @handler("order.created", topic="b")
    @handler("order.paid", group="x")
    @handler("order.paid", group="y")
    def wants_much(event: Event) -> None: ...

    for topic in ("a", "b"):
        assert run(registry, topic=topic) == ["wants_much"]
    assert run(registry, topic="c") == []
    for group in ("x", "y"):
        assert run(registry, Event(type="order.paid"), group=group) == ["wants_much"]


def test_decorated_function_is_returned_as_it_was(registry: Registry) -> None:
    def function(event: Event) -> None: ...

    assert handler("order.created")(function) is function


# Once, however often its module is imported


def test_importing_a_module_again_does_not_double_its_handlers(registry: Registry, make_app: MakeApp) -> None:
    app = make_app(
        "from tests.unit.handlers.test_handlers import careful\n"
        "@handler('order.created')\n"
        "def first(event): pass\n"
        "@handler('order.created')\n"
        "@careful\n"
        "def second(event): pass\n"
        "handler('order.created')(lambda event: None)\n"
    )
    module = importlib.import_module(f"{app}.handlers")
    before = registry.for_group("tests")
    importlib.reload(module)
    after = registry.for_group("tests")
    assert [each.name for each in after] == [each.name for each in before]
    assert len(after) == 3
    assert after[0].function is module.first


def test_same_function_registered_twice_runs_once(registry: Registry) -> None:
    def function(event: Event) -> None: ...

    for _ in range(2):
        handler("order.created")(function)
    assert run(registry) == ["function"]


def careful(function: Callable[[Event], None]) -> Callable[[Event], None]:
    @functools.wraps(function)
    def wrapper(event: Event) -> None:
        function(event)

    return wrapper


def careless(function: Callable[[Event], None]) -> Callable[[Event], None]:
    def wrapper(event: Event) -> None:
        function(event)

    return wrapper


def test_functions_that_only_share_a_name_all_run(registry: Registry) -> None:
    ran = []

    def make(name: str) -> None:
        @handler("order.created")
        def made(event: Event) -> None:
            ran.append(name)

    make("factory 1")
    make("factory 2")

    @handler("order.created")
    def _(event: Event) -> None:
        ran.append("underscore 1")

    @handler("order.created")
    def _(event: Event) -> None:
        ran.append("underscore 2")

    handler("order.created")(careless(lambda event: ran.append("wrapper 1")))
    handler("order.created")(careless(lambda event: ran.append("wrapper 2")))
    run(registry)
    assert ran == ["factory 1", "factory 2", "underscore 1", "underscore 2", "wrapper 1", "wrapper 2"]


# What they are called with


@dataclass
class Order:
    id: int
    name: str = "tent"


class OrderModel(pydantic.BaseModel):
    id: int


def called(function: Callable[..., Any], event: Event = EVENT) -> list[Any]:
    """What a handler with this signature is called with."""
    got: list[Any] = []

    @functools.wraps(function)
    def keep(*arguments: Any) -> None:
        got.extend(arguments)

    Handler("order.created", keep, None, None)(event)
    return got


def with_payload(payload: Any) -> Event:
    return Event(type="order.created", payload=payload)


def test_handler_without_annotation_gets_the_event(registry: Registry) -> None:
    for function in (lambda event: None, lambda event, other=1: None, lambda *args: None):
        assert called(function) == [EVENT]


def test_annotation_says_what_a_handler_gets(registry: Registry) -> None:
    def event(it: Event) -> None: ...
    def anything(it: Any) -> None: ...
    def order(it: Order) -> None: ...
    def model(it: OrderModel) -> None: ...
    def several(it: list[Order]) -> None: ...
    def plain(it: dict[str, int]) -> None: ...
    def optional(it: Order | None = None) -> None: ...
    def number(it: int) -> None: ...

    assert called(event) == called(anything) == [EVENT]
    assert called(order) == called(optional) == [Order(1)]
    assert called(model) == [OrderModel(id=1)]
    assert called(several, with_payload([{"id": 1}, {"id": 2}])) == [[Order(1), Order(2)]]
    assert called(plain) == [{"id": 1}]
    assert called(number, with_payload(7)) == [7]


def test_handler_with_two_arguments_gets_both_in_any_order(registry: Registry) -> None:
    def event_first(event: Event, order: Order) -> None: ...
    def order_first(order: OrderModel, event: Event) -> None: ...
    def as_it_is(event: Event, payload: Any) -> None: ...

    assert called(event_first) == [EVENT, Order(1)]
    assert called(order_first) == [OrderModel(id=1), EVENT]
    assert called(as_it_is) == [EVENT, {"id": 1}]


BATCH = [Event(type="order.created", payload={"id": number}, id=str(number)) for number in range(3)]
ORDERS = [Order(0), Order(1), Order(2)]


def called_with_batch(function: Callable[..., Any]) -> list[Any]:
    """What a batch handler with this signature is called with."""
    got: list[Any] = []

    @functools.wraps(function)
    def keep(*arguments: Any) -> None:
        got.extend(arguments)

    Handler("order.created", keep, None, None, batch=10)(BATCH)
    return got


def test_batch_handler_gets_a_list_of_events_or_of_payloads_or_both(registry: Registry) -> None:
    def events(it: list[Event]) -> None: ...
    def sequence(it: Sequence[Event]) -> None: ...
    def bare(it: list) -> None: ...  # type: ignore[type-arg]
    def anything(it: list[Any]) -> None: ...
    def orders(it: list[Order]) -> None: ...
    def lists(it: list[dict[str, int]]) -> None: ...
    def both(events: list[Event], orders: Iterable[OrderModel]) -> None: ...
    def raw(payloads: list, events: list[Event]) -> None: ...  # type: ignore[type-arg]

    for function in (lambda events: None, events, sequence, bare, anything):
        assert called_with_batch(function) == [BATCH]
    assert called_with_batch(orders) == [ORDERS]
    assert called_with_batch(lists) == [[{"id": 0}, {"id": 1}, {"id": 2}]]
    assert called_with_batch(both) == [BATCH, [OrderModel(id=each.id) for each in ORDERS]]
    assert called_with_batch(raw) == [[{"id": 0}, {"id": 1}, {"id": 2}], BATCH]


def one_order(order: Order) -> None: ...


def one_event(event: Event) -> None: ...


def a_dict(orders: dict[str, Order]) -> None: ...


def a_tuple(orders: tuple[Order, Order]) -> None: ...


@pytest.mark.parametrize("function", [one_order, one_event, a_dict, a_tuple])
def test_batch_handler_that_takes_no_list_is_refused(registry: Registry, function: Any) -> None:
    with pytest.raises(TypeError, match=r"A batch handler takes a list of events or of payloads, as in \("):
        handler("order.created", batch=10)(function)


def test_handler_that_takes_a_list_of_events_needs_a_batch(registry: Registry) -> None:
    def events(it: list[Event]) -> None: ...

    with pytest.raises(
        TypeError, match=r'Only a batch handler takes a list of events, as in @handler\(".*", batch=500'
    ):
        handler("order.created")(events)


@pytest.mark.parametrize("batch", [0, -1, 1.5, True, "500", 32768])
def test_batch_is_a_whole_number_from_1(registry: Registry, batch: Any) -> None:
    with pytest.raises(TypeError, match="@handler: batch must be a whole number from 1 to 32767, or None, not"):
        handler("order.created", batch=batch)


@pytest.mark.parametrize("wait", [-1, True, "2", None, float("nan"), float("inf"), 86401])
def test_wait_is_a_number_of_seconds(registry: Registry, wait: Any) -> None:
    with pytest.raises(TypeError, match="@handler: wait must be a number of seconds from 0 to 86400, not"):
        handler("order.created", batch=10, wait=wait)


def test_only_a_batch_handler_waits(registry: Registry) -> None:
    with pytest.raises(TypeError, match="@handler: wait is for batch handlers; add batch"):
        handler("order.created", wait=2)


def test_importing_a_batch_handler_again_changes_its_batch(registry: Registry) -> None:
    def count(events: Any) -> None: ...

    handler("order.created", batch=10)(count)
    handler("order.created", batch=20)(count)
    (found,) = registry.for_group("tests")
    assert found.batch == 20
    assert GroupHandlers(registry, "tests").largest_batch == 20


def test_batch_that_a_failure_names_is_never_empty() -> None:
    for kind in (Reject, Retry):
        with pytest.raises(ValueError, match=f"{kind.__name__}: events must name at least one event, or be None"):
            kind(events=[])


def test_single_handler_may_name_its_event_or_payload(registry: Registry) -> None:
    def takes(order: Order) -> None:
        raise Reject(events=[order])

    with pytest.raises(Reject) as raised:
        Handler("order.created", takes, None, None)(EVENT)
    assert raised.value.events == (EVENT,)


def test_coroutines_methods_partials_and_instances_get_the_payload_too(registry: Registry) -> None:
    got = []

    class Service:
        def method(self, order: Order) -> None:
            got.append(order)

        async def __call__(self, order: Order, event: Event) -> None:
            got.append(order)

    async def coroutine(more: int, order: Order) -> None:
        got.append(order)

    for each in (Service().method, Service(), functools.partial(coroutine, 1), careful(Service().method)):
        handler("order.created")(each)
    run(registry)
    assert got == [Order(1)] * 4


def test_payload_that_does_not_fit_is_named_with_its_field_and_without_its_value(registry: Registry) -> None:
    def takes(orders: list[Order]) -> None: ...

    with pytest.raises(PayloadMismatch) as error:
        called(takes, with_payload([{"id": 1}, {"id": "s3cr3t"}]))
    assert (
        str(error.value) == "The payload is not a valid list[Order]: [1].id: Input should be a valid integer, found str"
    )
    assert (error.value.__cause__, error.value.__context__) == (None, None)


def test_handler_runs_neither_before_nor_after_a_payload_that_does_not_fit(registry: Registry) -> None:
    ran = []

    @handler("order.created")
    def takes(order: OrderModel) -> None:
        ran.append(order)

    with pytest.raises(PayloadMismatch, match=r"The payload is not a valid OrderModel: id: Field required"):
        run(registry, Event(type="order.created", payload={}))
    assert ran == []


def test_annotations_are_read_when_the_handler_is_registered_and_not_for_each_event(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    @handler("order.created")
    def takes(order: Order, event: Event) -> None: ...

    monkeypatch.delattr("inspect.signature")
    monkeypatch.delattr("typing.get_type_hints")
    assert run(registry) == ["takes"]


def test_payload_type_may_be_defined_below_the_handler(registry: Registry, make_app: MakeApp) -> None:
    app = make_app(
        "from dataclasses import dataclass\n"
        "@handler('order.created')\n"
        "def takes(order: 'Order'): Order.seen.append(order.item.id)\n"
        "@dataclass\n"
        "class Order:\n"
        "    item: 'Item'\n"
        "@dataclass\n"
        "class Item:\n"
        "    id: int\n"
        "Order.seen = []\n"
    )
    with installed(app):
        registry.load()
    run(registry, Event(type="order.created", payload={"item": {"id": 7}}))
    assert sys.modules[f"{app}.handlers"].Order.seen == [7]


def test_event_may_be_imported_for_type_checkers_only(registry: Registry, make_app: MakeApp) -> None:
    app = make_app("@handler('order.created')\ndef takes(event: 'Event') -> 'Nothing': assert event.id == '17'\n")
    with installed(app):
        registry.load()
    assert run(registry) == ["takes"]


@pytest.mark.parametrize(
    "source",
    [
        "@handler('order.created')\ndef takes(order: 'Order'): pass",
        "import dataclasses\n@dataclasses.dataclass\nclass Big:\n    it: 'Order'\n"
        "@handler('order.created')\ndef takes(big: Big): pass",
        "import pydantic\nclass Big(pydantic.BaseModel):\n    it: 'Order'\n"
        "@handler('order.created')\ndef takes(big: Big): pass",
    ],
)
def test_annotation_that_cannot_be_resolved_is_named_before_any_message_is_consumed(
    registry: Registry, make_app: MakeApp, source: str
) -> None:
    app = make_app(source)
    with installed(app), pytest.raises(HandlersNotImportable) as error:
        registry.load()
    text = str(error.value)
    assert re.match(
        rf"{app}\.handlers\.takes takes (Order|Big), which cannot be resolved \(.*'Order'.*\)\. ", text, re.S
    )
    assert "Define or import it in that module, not only under TYPE_CHECKING." in text


# Async


@pytest.mark.parametrize("annotation", ["list[Event]", "list[models.Event]", "Sequence[Event]"])
def test_list_of_events_may_be_imported_for_type_checkers_only(
    registry: Registry, make_app: MakeApp, annotation: str
) -> None:
    app = make_app(f"def late(events: '{annotation}'): pass\nhandler('order.created', batch=2)(late)")
    with installed(app):
        registry.load()
    (found,) = registry.for_group("tests")
    assert found.arguments.payload_type == "list[Event]"


class AsyncCallable:
    def __init__(self) -> None:
        self.events: list[Event] = []

    async def __call__(self, event: Event) -> None:
        self.events.append(event)


def test_every_kind_of_coroutine_is_awaited(registry: Registry) -> None:
    events = []

    async def function(event: Event) -> None:
        events.append(event)

    async def with_more(more: int, event: Event) -> None:
        events.append(event)

    instance = AsyncCallable()
    for each in (function, functools.partial(with_more, 1), instance, lambda event: function(event)):
        handler("order.created")(each)
    run(registry)
    assert events == [EVENT] * 3
    assert instance.events == [EVENT]


# Finding them


def test_handlers_of_all_installed_apps_are_found(registry: Registry, make_app: MakeApp) -> None:
    apps = [make_app(f"@handler('order.created')\ndef {name}(event): pass") for name in ("first", "second")]
    with installed(*apps):
        registry.load()
    assert run(registry) == ["first", "second"]


def test_handlers_may_be_a_package(registry: Registry, make_app: MakeApp) -> None:
    app = make_app("")
    path = Path(sys.path[0]) / app
    (path / "handlers.py").unlink()
    (path / "handlers").mkdir()
    (path / "handlers" / "__init__.py").write_text("from . import orders")
    (path / "handlers" / "orders.py").write_text(
        "from django_outbox import handler\n@handler('order.created')\ndef inside(event): pass\n"
    )
    with installed(app):
        registry.load()
    assert run(registry) == ["inside"]


def test_loading_again_changes_nothing(registry: Registry, make_app: MakeApp) -> None:
    app = make_app(
        "import pathlib\n"
        "with pathlib.Path(__file__).with_name('imports').open('a') as log: log.write('x')\n"
        "@handler('order.created')\n"
        "def once(event): pass\n"
    )
    with installed(app):
        registry.load()
        del sys.modules[f"{app}.handlers"]
        registry.load()
    assert (Path(sys.path[0]) / app / "imports").read_text() == "x"
    assert run(registry) == ["once"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def broken(:", "SyntaxError: "),
        ("@handler\ndef forgot_the_type(event): pass", "TypeError: @handler takes the event type, as in"),
    ],
)
def test_module_that_cannot_be_imported_is_named(
    registry: Registry, make_app: MakeApp, source: str, reason: str
) -> None:
    app = make_app(source)
    with installed(app), pytest.raises(HandlersNotImportable) as error:
        registry.load()
    text = str(error.value)
    assert text.startswith(f"{app}.handlers cannot be imported ({reason}")
    assert text.endswith("No message is consumed until then: fix the import and restart.")


def test_module_is_imported_again_after_it_has_been_mended(registry: Registry, make_app: MakeApp) -> None:
    app = make_app("@handler('order.created')\ndef early(event): pass\n1 / 0")
    with installed(app):
        with pytest.raises(HandlersNotImportable):
            registry.load()
        source = Path(sys.path[0]) / app / "handlers.py"
        source.write_text(source.read_text().replace("1 / 0", "# mended, and longer than before"))
        registry.load()
    assert run(registry) == ["early"]


# Wrong use


@pytest.mark.parametrize("event_type", [lambda event: None, "", None, 1, b"order.created", ["order.created"]])
def test_decorator_without_an_event_type_says_how_it_is_used(registry: Registry, event_type: Any) -> None:
    with pytest.raises(TypeError, match=r'as in @handler\("order\.created"\)'):
        handler(event_type)


@pytest.mark.parametrize("wrong", ["topic", "group"])
@pytest.mark.parametrize("value", ["", 1, ["orders"]])
def test_topic_and_group_are_text(registry: Registry, wrong: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"@handler: {wrong} must be text or None"):
        handler("order.created", **{wrong: value})


def generator(event: Event) -> Any:
    yield


async def async_generator(event: Event) -> Any:
    yield


def takes_two_events(event: Event, other: Event) -> None: ...


def takes_two_payloads(order: Order, other: Order) -> None: ...


def takes_half(event: Event, other) -> None: ...  # type: ignore[no-untyped-def]


def takes_a_registry(payload: Registry) -> None: ...


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (None, "must decorate a function"),
        ("order.paid", "must decorate a function"),
        (generator, "must not be a generator function"),
        (async_generator, "must not be a generator function"),
        (lambda: None, "takes one argument, the event"),
        (lambda event, other: None, "needs annotations"),
        (lambda event, other, third: None, "takes one argument, the event or its payload, or both"),
        (lambda *, event: None, "takes one argument, the event"),
        (lambda event, *, other: None, "takes one argument, the event"),
        (takes_two_events, "needs annotations"),
        (takes_two_payloads, "needs annotations"),
        (takes_half, "needs annotations"),
        (
            takes_a_registry,
            "takes the event or its payload: .* Registry is not a type that a payload can be validated against",
        ),
    ],
)
def test_what_can_never_handle_an_event_is_refused_at_once(registry: Registry, function: Any, reason: str) -> None:
    with pytest.raises(TypeError, match=reason):
        handler("order.created")(function)
    assert registry.for_group("tests") == []


@pytest.mark.parametrize("function", [lambda event, other=1: None, lambda *args: None, [].append, print, max])
def test_whatever_takes_one_argument_is_a_handler(registry: Registry, function: Any) -> None:
    handler("order.created")(function)
    assert len(registry.for_group("tests")) == 1
