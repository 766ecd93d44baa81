"""The registry of handlers: which functions want which events."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from asgiref.sync import async_to_sync
from django.apps import apps
from django.utils.module_loading import module_has_submodule

from django_outbox.events import Event
from django_outbox.exceptions import HandlersNotImportable

MODULE = "handlers"

Function = TypeVar("Function", bound=Callable[[Event], Any])


@dataclass(frozen=True, slots=True)
class Handler:
    """A function registered for one type of event."""

    event_type: str
    function: Callable[[Event], Any]
    topic: str | None
    group: str | None

    @property
    def name(self) -> str:
        """Where the function is defined."""
        return f"{self.function.__module__}.{self.function.__qualname__}"

    def __call__(self, event: Event) -> None:
        if inspect.iscoroutinefunction(self.function):
            async_to_sync(self.function)(event)
        else:
            self.function(event)


class Registry:
    """The handlers of a project, by event type, in the order of their registration."""

    def __init__(self) -> None:
        self._handlers: list[Handler] = []
        self._loaded = False

    def register(
        self,
        event_type: str,
        function: Callable[[Event], Any],
        *,
        topic: str | None = None,
        group: str | None = None,
    ) -> None:
        """Add a handler; one of the same name and type takes the place of the older."""
        new = Handler(event_type, function, topic, group)
        for index, old in enumerate(self._handlers):
            if (old.name, old.event_type) == (new.name, new.event_type):
                self._handlers[index] = new
                return
        self._handlers.append(new)

    def find(self, event_type: str, *, topic: str, group: str) -> list[Handler]:
        """The handlers that want an event of this type, from this topic, in this group."""
        return [
            handler
            for handler in self._handlers
            if handler.event_type == event_type and handler.topic in (None, topic) and handler.group in (None, group)
        ]

    def for_group(self, group: str) -> list[Handler]:
        """All handlers that this consumer group runs."""
        return [handler for handler in self._handlers if handler.group in (None, group)]

    def load(self) -> None:
        """Import the ``handlers`` module of every installed app, once.

        Raises:
            HandlersNotImportable: naming the app and the error.
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
                    f"{name} cannot be imported ({type(error).__name__}: {error}). No message is "
                    f"consumed until it can: mend the module, then start again."
                ) from error
        self._loaded = True


registry = Registry()


def handler(event_type: str, *, topic: str | None = None, group: str | None = None) -> Callable[[Function], Function]:
    """Register the decorated function as a handler of an event type.

    The function takes one :class:`~django_outbox.events.Event` and runs in the transaction that
    marks the message consumed. Several handlers of one type run in the order of registration, in
    the same transaction. A coroutine function is awaited.

    Args:
        event_type: such as ``"order.created"``.
        topic: only events that come from this topic; None takes all.
        group: only in a consumer of this group; None takes the consumer's.
    """
    if not isinstance(event_type, str) or not event_type:
        raise TypeError('@handler takes the event type, as in @handler("order.created").')

    def register(function: Function) -> Function:
        registry.register(event_type, function, topic=topic, group=group)
        return function

    return register
