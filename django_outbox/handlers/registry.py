"""The registry of handlers: finds them in the project, and by consumer group, event type and topic."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar

from django.apps import apps
from django.utils.module_loading import module_has_submodule

from django_outbox.conf import LARGEST_COUNT, LONGEST_WAIT, TASK_PREFIX, settings
from django_outbox.exceptions import HandlersNotImportable, text_of
from django_outbox.handlers.handler import Handler, Handlers

MODULE = "handlers"

Function = TypeVar("Function", bound=Callable[..., Any])


class Registry:
    """The handlers of a project, in the order of their registration.

    The consumer's group decides which of them it runs. The main group, ``CONSUMER_GROUP``, runs handlers without a
    group and those that name it. Another group that handlers name runs these only, through the inbox. A group that
    no handler names acts as the main one.
    """

    def __init__(self) -> None:
        self._handlers: list[Handler] = []
        self._loaders: list[Callable[[Registry], object]] = []
        self._loaded = False

    def register(
        self,
        event_type: str,
        function: Callable[..., Any],
        *,
        topic: str | None = None,
        group: str | None = None,
        batch: int | None = None,
        wait: float = 0.0,
    ) -> None:
        """Add a handler, or replace it if it is the same, as after a second import of its module.

        Raises:
            TypeError: the function does not take an event, a payload or both; with ``batch``, lists of them.
        """
        new = Handler(event_type, function, topic, group, batch=batch, wait=wait)
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

    def of_all_groups(self) -> list[tuple[str, Handler]]:
        """Return the handlers of all groups, each with the group whose consumer runs it."""
        return [(group, handler) for group in self.groups for handler in self.for_group(group)]

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

    def add_loader(self, loader: Callable[[Registry], object]) -> None:
        """Have ``load()`` call this function, which registers other handlers."""
        if loader not in self._loaders:
            self._loaders.append(loader)

    def load(self) -> None:
        """Import the ``handlers`` module of every installed app, and call the loaders, once.

        Raises:
            HandlersNotImportable: naming the app and the error, or the annotation that cannot be resolved.
        """
        if self._loaded:
            return
        for app in apps.get_app_configs():
            if app.module is None or not module_has_submodule(app.module, MODULE):
                continue
            imported(f"{app.name}.{MODULE}")
        for load in self._loaders:
            load(self)
        for each in self._handlers:
            try:
                _ = each.arguments
            except (NameError, TypeError) as error:
                raise HandlersNotImportable(f"{error} No message is consumed until then.") from error
        self._loaded = True


def imported(name: str) -> ModuleType:
    """Import a module that registers handlers.

    Raises:
        HandlersNotImportable: naming the module and the error.
    """
    try:
        return import_module(name)
    except Exception as error:
        raise HandlersNotImportable(
            f"{name} cannot be imported ({type(error).__name__}: {text_of(error)}). No message is consumed "
            f"until then: fix the import and restart."
        ) from error


class GroupHandlers:
    """The handlers of one consumer group, by event type and topic.

    Attributes:
        group: the consumer group.
        uses_inbox: True if all records go to its inbox, also those of this service's own outbox.
        types: event types that have a handler.
        largest_batch: the most events that one of its handlers takes at once; 0 without batch handlers.
    """

    def __init__(self, registry: Registry, group: str) -> None:
        self.group = group
        self.uses_inbox = registry.is_inbox_group(group)
        self._handlers = registry.for_group(group)
        self.types = frozenset(handler.event_type for handler in self._handlers)
        self.largest_batch = Handlers(self._handlers).batch
        self._found: dict[tuple[str, str], Handlers] = {}
        self._types_of: dict[str, frozenset[str]] = {}

    @property
    def default_topics(self) -> frozenset[str]:
        """The topics to read by default: those of the settings, of the handlers, and with a mapper."""
        mapped = {topic for topic, mapper in settings.inbox.items() if mapper is not None}
        return settings.topics | mapped | {handler.topic for handler in self._handlers if handler.topic}

    def find(self, event_type: str, topic: str) -> Handlers:
        """Return the handlers for an event of this type from this topic, in the order in which they run."""
        kind = (event_type, topic)
        found = self._found.get(kind)
        if found is None:
            of_type = [handler for handler in self._handlers if handler.event_type == event_type]
            found = Handlers(handler for handler in of_type if handler.topic in (None, topic))
            if found:  # records may name any number of other types
                self._found[kind] = found
        return found

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

    def accepts_foreign(self, event_type: str, topic: str) -> bool:
        """The same for an event of another service, which must not run tasks of this one."""
        return not event_type.startswith(TASK_PREFIX) and self.accepts(event_type, topic)


registry = Registry()


def handler(
    event_type: str,
    *,
    topic: str | None = None,
    group: str | None = None,
    batch: int | None = None,
    wait: float = 0.0,
) -> Callable[[Function], Function]:
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
        batch: take lists of up to so many events, or payloads, that are available, in order. If the function raises,
            each event is tried alone, as a list of one; ``Reject`` and ``Retry`` may name the events they are about.
        wait: with ``batch``, seconds to wait for a full list; 0 takes what is available.

    Raises:
        TypeError: an argument or the function is not valid.
    """
    if not isinstance(event_type, str) or not event_type:
        raise TypeError('@handler takes the event type, as in @handler("order.created").')
    if event_type.startswith(TASK_PREFIX):
        raise TypeError(
            f"@handler: the event type begins with {TASK_PREFIX!r}, as only tasks of Django's Tasks framework do."
        )
    for name, value in {"topic": topic, "group": group}.items():
        if value is not None and (not isinstance(value, str) or not value):
            raise TypeError(f"@handler: {name} must be text or None, not {value!r}.")
    if batch is not None and (not isinstance(batch, int) or isinstance(batch, bool) or not 1 <= batch <= LARGEST_COUNT):
        raise TypeError(f"@handler: batch must be a whole number from 1 to {LARGEST_COUNT}, or None, not {batch!r}.")
    longest = LONGEST_WAIT.total_seconds()
    if not isinstance(wait, (int, float)) or isinstance(wait, bool) or not 0 <= wait <= longest:
        raise TypeError(f"@handler: wait must be a number of seconds from 0 to {longest:g}, not {wait!r}.")
    if wait and batch is None:
        raise TypeError("@handler: wait is for batch handlers; add batch, as in batch=500.")

    def register(function: Function) -> Function:
        if not callable(function):
            raise TypeError(f"@handler must decorate a function, not {function!r}.")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"A handler must not be a generator function: {function!r}.")
        registry.register(event_type, function, topic=topic, group=group, batch=batch, wait=wait)
        return function

    return register
