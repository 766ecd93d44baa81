"""Handlers, and their registry: finds them in the project, and by consumer group, event type and topic."""

from __future__ import annotations

import inspect
from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from types import CodeType
from typing import Any, TypeVar

from asgiref.sync import async_to_sync
from django.apps import apps
from django.utils.module_loading import module_has_submodule

from django_outbox.conf import settings
from django_outbox.events.event import Event
from django_outbox.exceptions import HandlerCancelled, HandlersNotImportable, PayloadMismatch, name_handlers, text_of
from django_outbox.handlers.arguments import Arguments, arguments_of
from django_outbox.handlers.timeout import call_within

MODULE = "handlers"

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Handler:
    """A function registered for one type of event."""

    event_type: str
    function: Callable[..., Any]
    topic: str | None
    group: str | None

    @cached_property
    def name(self) -> str:
        """The module and name of the function."""
        function = inspect.unwrap(self.function)
        qualname = getattr(function, "__qualname__", None)
        return repr(function) if qualname is None else f"{function.__module__}.{qualname}"

    @cached_property
    def arguments(self) -> Arguments:
        """What to call the function with; raises the errors of ``arguments_of``."""
        return arguments_of(self.function)

    def __call__(self, event: Event) -> None:
        """Run the function, and end the process if it runs longer than ``HANDLER_TIMEOUT``."""
        timeout = settings.handler_timeout
        if timeout is None:
            self._run(event)
        else:
            about = {"event_id": event.id, "topic": event.topic, "attempt": event.attempt}
            subject = f"handler {self.name} with event {event.id} ({event.type})"
            call_within(timeout, subject, self._run, event, about=about)

    def _run(self, event: Event) -> None:
        try:
            result = self.function(*self.arguments.of(event))
            if inspect.isawaitable(result):
                async_to_sync(_wait_for)(result)
        except PayloadMismatch as mismatch:
            name_handlers(mismatch, [self.name])
            raise
        except CancelledError as error:
            # It is not an Exception, and would end the process.
            raise HandlerCancelled.of(error) from None

    def replaces(self, old: Handler) -> bool:
        """True if this is the same handler as an older one, as after a second import of its module.

        Functions that only share a name, such as those of one factory or decorator, are not the same.
        """
        if (self.event_type, self.topic, self.group) != (old.event_type, old.topic, old.group):
            return False
        if self.function == old.function:
            return True
        code, old_code = _code(self.function), _code(old.function)
        if code is None or old_code is None or code is old_code or self.name != old.name:
            return False
        return (code.co_filename, code.co_firstlineno) == (old_code.co_filename, old_code.co_firstlineno)


class Registry:
    """The handlers of a project, in the order of their registration.

    The consumer's group decides which of them it runs. The main group, ``CONSUMER_GROUP``, runs handlers without a
    group and those that name it. Another group that handlers name runs these only, through the inbox. A group that
    no handler names acts as the main one.
    """

    def __init__(self) -> None:
        self._handlers: list[Handler] = []
        self._loaded = False

    def register(
        self, event_type: str, function: Callable[..., Any], *, topic: str | None = None, group: str | None = None
    ) -> None:
        """Add a handler, or replace it if it is the same, as after a second import of its module.

        Raises:
            TypeError: the function does not take an event, a payload or both.
        """
        new = Handler(event_type, function, topic, group)
        with suppress(NameError):  # it may be defined later; load() checks again
            _ = new.arguments
        for index, old in enumerate(self._handlers):
            if new.replaces(old):
                self._handlers[index] = new
                return
        self._handlers.append(new)

    def for_group(self, group: str) -> list[Handler]:
        """Return the handlers that a consumer of this group runs."""
        groups = (group,) if self.is_inbox_group(group) else (None, settings.consumer_group)
        return [handler for handler in self._handlers if handler.group in groups]

    def is_inbox_group(self, group: str) -> bool:
        """True for a group other than the main one that handlers name."""
        return group != settings.consumer_group and group in self.named_groups

    @property
    def named_groups(self) -> frozenset[str]:
        """All groups that handlers name."""
        return frozenset(handler.group for handler in self._handlers if handler.group is not None)

    @property
    def groups(self) -> list[str]:
        """The consumer groups of this project: the main one, then others that handlers name."""
        main = settings.consumer_group
        return [main, *sorted(self.named_groups - {main})]

    def load(self) -> None:
        """Import the ``handlers`` module of every installed app, once.

        Raises:
            HandlersNotImportable: naming the app and the error, or the annotation that cannot be resolved.
        """
        if self._loaded:
            return
        for app in apps.get_app_configs():
            if app.module is None or not module_has_submodule(app.module, MODULE):
                continue
            name = f"{app.name}.{MODULE}"
            try:
                import_module(name)
            except Exception as error:
                raise HandlersNotImportable(
                    f"{name} cannot be imported ({type(error).__name__}: {text_of(error)}). No message is consumed "
                    f"until then: fix the import and restart."
                ) from error
        for each in self._handlers:
            try:
                _ = each.arguments
            except (NameError, TypeError) as error:
                raise HandlersNotImportable(f"{error} No message is consumed until then.") from error
        self._loaded = True


class GroupHandlers:
    """The handlers of one consumer group, by event type and topic.

    Attributes:
        group: the consumer group.
        uses_inbox: True if all records go to its inbox, also those of this service's own outbox.
        types: event types that have a handler.
    """

    def __init__(self, registry: Registry, group: str) -> None:
        self.group = group
        self.uses_inbox = registry.is_inbox_group(group)
        self._handlers = registry.for_group(group)
        self.types = frozenset(handler.event_type for handler in self._handlers)
        self._found: dict[tuple[str, str], list[Handler]] = {}
        self._types_of: dict[str, frozenset[str]] = {}

    @property
    def default_topics(self) -> frozenset[str]:
        """The topics to read by default: those of the settings, of the handlers, and with a mapper."""
        mapped = {topic for topic, mapper in settings.inbox.items() if mapper is not None}
        return settings.topics | mapped | {handler.topic for handler in self._handlers if handler.topic}

    def find(self, event_type: str, topic: str) -> list[Handler]:
        """Return the handlers for an event of this type from this topic, in the order in which they run."""
        kind = (event_type, topic)
        if kind not in self._found:
            of_type = [handler for handler in self._handlers if handler.event_type == event_type]
            self._found[kind] = [handler for handler in of_type if handler.topic in (None, topic)]
        return self._found[kind]

    def replace_each(self, replace: Callable[[Handler], Handler]) -> None:
        """Replace handlers, such as by wrappers that measure them."""
        self._handlers = [replace(handler) for handler in self._handlers]
        self._found.clear()

    def types_of(self, topic: str) -> frozenset[str]:
        """Return the event types from this topic that have a handler."""
        if topic not in self._types_of:
            wanted = [handler for handler in self._handlers if handler.topic in (None, topic)]
            self._types_of[topic] = frozenset(handler.event_type for handler in wanted)
        return self._types_of[topic]

    def accepts(self, event_type: str, topic: str) -> bool:
        """True if this event must be stored or handled.

        A group that uses the inbox ignores events without a handler: they are for other groups.
        """
        unknown_is_dead = settings.unknown_event == "dead" and not self.uses_inbox
        return unknown_is_dead or event_type in self.types_of(topic)


registry = Registry()


def handler(event_type: str, *, topic: str | None = None, group: str | None = None) -> Callable[[Function], Function]:
    """Register the decorated function as a handler of an event type.

    The function takes one argument. Without an annotation, or annotated as
    :class:`~django_outbox.events.event.Event`, it is the event. Annotated as a dataclass, a pydantic model
    or another type that JSON can be converted to, it is the payload of that type. With two arguments it
    takes both. It runs in the transaction that marks the message consumed. Several handlers of one
    type run in the order of registration, in the same transaction. A coroutine function is awaited.

    Args:
        event_type: such as ``"order.created"``.
        topic: only events from this topic; None takes all.
        group: only in a consumer of this group; None takes the main group, ``CONSUMER_GROUP``.

    Raises:
        TypeError: an argument or the function is not valid.
    """
    if not isinstance(event_type, str) or not event_type:
        raise TypeError('@handler takes the event type, as in @handler("order.created").')
    for name, value in {"topic": topic, "group": group}.items():
        if value is not None and (not isinstance(value, str) or not value):
            raise TypeError(f"@handler: {name} must be text or None, not {value!r}.")

    def register(function: Function) -> Function:
        if not callable(function):
            raise TypeError(f"@handler must decorate a function, not {function!r}.")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"A handler must not be a generator function: {function!r}.")
        registry.register(event_type, function, topic=topic, group=group)
        return function

    return register


async def _wait_for(result: Awaitable[Any]) -> None:
    await result


def _code(function: Any) -> CodeType | None:
    return getattr(inspect.unwrap(function), "__code__", None)
