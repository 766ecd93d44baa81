"""The registry of handlers: which functions want which events."""

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
from django_outbox.handlers.arguments import Arguments, arguments_of, required_parameters
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
        """Where the function is defined."""
        function = inspect.unwrap(self.function)
        qualname = getattr(function, "__qualname__", None)
        return repr(function) if qualname is None else f"{function.__module__}.{qualname}"

    @cached_property
    def arguments(self) -> Arguments:
        """What the function is called with.

        Raises:
            NameError: an annotation names something that is not defined, or not yet.
            TypeError: the function takes something else than an event and a payload.
        """
        return arguments_of(self.function)

    def __call__(self, event: Event) -> None:
        """Run the function, within ``HANDLER_TIMEOUT``: a process in which it runs longer is ended.

        Raises:
            PayloadMismatch: if the payload is not of the type that the function wants.
        """
        timeout = settings.handler_timeout
        if timeout is None:
            self._run(event)
        else:
            about = {"event_id": event.id, "topic": event.topic, "attempt": event.attempt}
            subject = f"handler {self.name} with event {event.id} ({event.type})"
            call_within(timeout, subject, self._run, event, about=about)

    def _run(self, event: Event) -> None:
        try:
            result = self.function(*self._arguments_for(event))
            if inspect.isawaitable(result):
                async_to_sync(_wait_for)(result)
        except CancelledError as error:
            # No Exception, so that it would end the process, as only what asks for that should.
            raise HandlerCancelled.of(error) from None

    def _arguments_for(self, event: Event) -> list[Any]:
        try:
            return self.arguments.of(event)
        except PayloadMismatch as mismatch:
            name_handlers(mismatch, [self.name])
            raise

    def replaces(self, old: Handler) -> bool:
        """True if this is the older one again, as after a second import of its module.

        Not so for functions that only share a name, such as those of one factory or decorator.
        """
        if (self.event_type, self.topic, self.group) != (old.event_type, old.topic, old.group):
            return False
        if self.function == old.function:
            return True
        code, old_code = _code(self.function), _code(old.function)
        if code is None or old_code is None or code is old_code:
            return False
        return (self.name, code.co_filename, code.co_firstlineno) == (
            old.name,
            old_code.co_filename,
            old_code.co_firstlineno,
        )


class Registry:
    """The handlers of a project, by event type, in the order of their registration.

    Which of them a consumer runs is told by its group. Usually it is the main group, the setting
    ``CONSUMER_GROUP``: that has the handlers without a group and those that name this one. Another
    group that some handler names has these handlers only, and gets its messages by the inbox. A
    group that no handler names takes the place of the main one.
    """

    def __init__(self) -> None:
        self._handlers: list[Handler] = []
        self._loaded = False

    def register(
        self,
        event_type: str,
        function: Callable[..., Any],
        *,
        topic: str | None = None,
        group: str | None = None,
    ) -> None:
        """Add a handler. The same once more, as by a second import, takes the place of the older.

        Raises:
            TypeError: the function takes something else than an event and a payload.
        """
        new = Handler(event_type, function, topic, group)
        with suppress(NameError):  # what is not defined yet may be soon; load() looks again
            _ = new.arguments
        for index, old in enumerate(self._handlers):
            if new.replaces(old):
                self._handlers[index] = new
                return
        self._handlers.append(new)

    def for_group(self, group: str) -> list[Handler]:
        """All handlers that a consumer of this group runs."""
        groups = self._groups_of(group)
        return [handler for handler in self._handlers if handler.group in groups]

    def is_inbox_group(self, group: str) -> bool:
        """True for a group beside the main one: only the handlers that name it belong to it."""
        return group != settings.consumer_group and group in self.named_groups

    @property
    def named_groups(self) -> frozenset[str]:
        """All groups that handlers name."""
        return frozenset(handler.group for handler in self._handlers if handler.group is not None)

    @property
    def groups(self) -> list[str]:
        """The consumer groups of this project: the main one, then those beside it that handlers name."""
        main = settings.consumer_group
        return [main, *sorted(self.named_groups - {main})]

    def _groups_of(self, group: str) -> tuple[str | None, ...]:
        """What handlers of a consumer's group have as their ``group``."""
        return (group,) if self.is_inbox_group(group) else (None, settings.consumer_group)

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
                    f"{name} cannot be imported ({type(error).__name__}: {text_of(error)}). No message is "
                    f"consumed until it can: mend the module, then start again."
                ) from error
        for each in self._handlers:
            try:
                _ = each.arguments
            except (NameError, TypeError) as error:
                raise HandlersNotImportable(f"{error} No message is consumed until then.") from error
        self._loaded = True


class GroupHandlers:
    """The handlers of one consumer group, as a consumer asks for them at each message.

    Attributes:
        group: the group.
        apart: that it is a group beside the main one: all records are for its inbox, those of this
            service's own outbox as well.
        types: the event types that have a handler.
        topics: the topics that the handlers name.
    """

    def __init__(self, registry: Registry, group: str) -> None:
        self.group = group
        self.apart = registry.is_inbox_group(group)
        self._handlers = registry.for_group(group)
        self.types = frozenset(handler.event_type for handler in self._handlers)
        self.topics = frozenset(handler.topic for handler in self._handlers if handler.topic)
        self._found: dict[tuple[str, str], list[Handler]] = {}
        self._types_of: dict[str, frozenset[str]] = {}

    @property
    def default_topics(self) -> frozenset[str]:
        """What a consumer of this group reads if it is not told: the topics that this project publishes to, those
        that the handlers name, and those that have a mapper.
        """
        mapped = {topic for topic, mapper in settings.inbox.items() if mapper is not None}
        return settings.topics | self.topics | mapped

    def find(self, event_type: str, topic: str) -> list[Handler]:
        """The handlers that want an event of this type, from this topic, in the order in which they run."""
        kind = (event_type, topic)
        if kind not in self._found:
            self._found[kind] = [
                handler
                for handler in self._handlers
                if handler.event_type == event_type and handler.topic in (None, topic)
            ]
        return self._found[kind]

    def replace_each(self, replace: Callable[[Handler], Handler]) -> None:
        """Put others in the handlers' places, such as those that measure them, before any is asked for."""
        self._handlers = [replace(handler) for handler in self._handlers]
        self._found.clear()

    def types_of(self, topic: str) -> frozenset[str]:
        """The event types that have a handler if they come from this topic."""
        if topic not in self._types_of:
            self._types_of[topic] = frozenset(
                handler.event_type for handler in self._handlers if handler.topic in (None, topic)
            )
        return self._types_of[topic]

    def want(self, event_type: str, topic: str) -> bool:
        """True if something is to be done with such an event, be it that nobody handles it.

        To a group that is apart no event is unknown: what it does not name is for others.
        """
        unknown_is_dead = settings.unknown_event == "dead" and not self.apart
        return unknown_is_dead or event_type in self.types_of(topic)


registry = Registry()


def handler(event_type: str, *, topic: str | None = None, group: str | None = None) -> Callable[[Function], Function]:
    """Register the decorated function as a handler of an event type.

    The function takes one argument. Without an annotation, or annotated as
    :class:`~django_outbox.events.event.Event`, it is the event; annotated as a dataclass, a pydantic model
    or another type that JSON can be turned into, it is the payload as that type. With two arguments it
    takes both. It runs in the transaction that marks the message consumed. Several handlers of one
    type run in the order of registration, in the same transaction. A coroutine function is awaited.

    Args:
        event_type: such as ``"order.created"``.
        topic: only events that come from this topic; None takes all.
        group: only in a consumer of this group; None takes the main group, ``CONSUMER_GROUP``.

    Raises:
        TypeError: if this is not how it is used.
    """
    if not isinstance(event_type, str) or not event_type:
        raise TypeError('@handler takes the event type, as in @handler("order.created").')
    for name, value in {"topic": topic, "group": group}.items():
        if value is not None and (not isinstance(value, str) or not value):
            raise TypeError(f"@handler takes text or None as {name}, not {value!r}.")

    def register(function: Function) -> Function:
        _require_handler(function)
        registry.register(event_type, function, topic=topic, group=group)
        return function

    return register


def _require_handler(function: Any) -> None:
    if not callable(function):
        raise TypeError(f"@handler decorates a function, not {function!r}.")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"A handler must not yield, or nothing in it would run: {function!r}.")
    required_parameters(function)


async def _wait_for(result: Awaitable[Any]) -> None:
    await result


def _code(function: Any) -> CodeType | None:
    return getattr(inspect.unwrap(function), "__code__", None)
