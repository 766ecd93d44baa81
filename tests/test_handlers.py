"""Handlers: each runs once for the events that it wants, in order, async or not, and is found by itself."""

from __future__ import annotations

import functools
import importlib
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import transaction
from django.test import override_settings

from django_outbox import Event, handler, publish
from django_outbox import handlers as handlers_module
from django_outbox.exceptions import HandlersNotImportable
from django_outbox.handlers import Handler, Registry
from tests.app.models import Effect
from tests.outbox import Pipeline, statuses
from tests.overrides import outbox_settings

EVENT = Event(type="order.created", payload={"id": 1}, id="17")

MakeApp = Callable[[str], str]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """An empty registry in the place of the project's."""
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
    found = registry.find(event.type, topic=topic, group=group)
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
        assert registry.find(other, topic="outbox", group="tests") == []


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
        "from tests.test_handlers import careful\n"
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


# Async


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


@pytest.mark.django_db(transaction=True)
def test_async_handler_works_in_the_transaction_around_it() -> None:
    async def write(event: Event) -> None:
        await Effect.objects.acreate(name="async", event_id=event.id)
        assert await Effect.objects.filter(event_id=event.id).acount() == 1

    with transaction.atomic():
        Handler("order.created", write, None, None)(EVENT)
        assert Effect.objects.count() == 1
        transaction.set_rollback(True)
    assert not Effect.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_effects_of_an_async_handler_are_committed_with_its_message_or_not_at_all() -> None:
    async def write(event: Event) -> None:
        await Effect.objects.acreate(name="async", event_id=event.id)
        if event.payload == "bad":
            raise ArithmeticError

    pipeline = Pipeline()
    pipeline.on("order.created", write)
    with transaction.atomic():
        good = publish("order.created", "good")
        publish("order.created", "bad")
    pipeline.turn()
    assert statuses() == ["consumed", "pending"]
    assert [effect.event_id for effect in Effect.objects.all()] == [str(good.event_id)]


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
    assert text.endswith("No message is consumed until it can: mend the module, then start again.")


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
    with pytest.raises(TypeError, match=f"@handler takes text or None as {wrong}"):
        handler("order.created", **{wrong: value})


def generator(event: Event) -> Any:
    yield


async def async_generator(event: Event) -> Any:
    yield


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (None, "decorates a function"),
        ("order.paid", "decorates a function"),
        (generator, "must not yield"),
        (async_generator, "must not yield"),
        (lambda: None, "takes one argument, the event"),
        (lambda event, other: None, "takes one argument, the event"),
        (lambda *, event: None, "takes one argument, the event"),
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
