"""The event types that a project declares: which payloads each has, by version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import autodiscover_modules

from django_outbox.conf import settings
from django_outbox.events.typed import PayloadType, name_of, require_pydantic
from django_outbox.exceptions import InvalidMessage, text_of

MODULE = "event_types"
DEFAULT_VERSION = "v1"

Declared = TypeVar("Declared")


@dataclass(frozen=True)
class EventType:
    """One version of an event type.

    Attributes:
        payload_type: the class, or another type, of its payloads.
        source: the service that publishes it; None for this one, which may also be named.
    """

    name: str
    version: str
    payload_type: Any
    source: str | None

    def __str__(self) -> str:
        return f"{self.name} {self.version}" + ("" if self.source is None else f" of {self.source}")

    @property
    def is_own(self) -> bool:
        """True if this service publishes it."""
        return self.source is None or self.source == settings.source

    @property
    def type_name(self) -> str:
        return name_of(self.payload_type)

    @cached_property
    def payload(self) -> PayloadType:
        """
        Raises:
            ImproperlyConfigured: pydantic cannot validate the type.
        """
        try:
            return PayloadType(self.payload_type)
        except (NameError, TypeError) as error:
            reason = text_of(error).partition("\n")[0]  # pydantic adds a link
            raise ImproperlyConfigured(
                f"The event type {self} is declared as {self.type_name}, which cannot be used: {reason}"
            ) from error

    def replaces(self, old: EventType) -> bool:
        """True if this is the same type as an older one, as after a second import of its module."""
        return self.payload_type == old.payload_type or _place(self.payload_type) == _place(old.payload_type)


_NONE: Mapping[str, EventType] = {}


class EventTypes:
    """The declared event types of a project, by name, source and version."""

    def __init__(self) -> None:
        self._declared: dict[str, dict[tuple[str | None, str], EventType]] = {}

    def declare(self, new: EventType) -> None:
        """Add an event type.

        Raises:
            TypeError: this version is declared already, with another type.
        """
        declared = self._declared.setdefault(new.name, {})
        old = declared.get((new.source, new.version))
        if old is not None and not new.replaces(old):
            raise TypeError(
                f"The event type {new} is declared twice, as {_full_name(old.payload_type)} and as "
                f"{_full_name(new.payload_type)}. Give one of them another version, as in "
                f'@event_type("{new.name}", version="v2").'
            )
        declared[new.source, new.version] = new

    def load(self) -> None:
        """Import the ``event_types`` module of every installed app."""
        autodiscover_modules(MODULE)

    def all(self) -> list[EventType]:
        """Return the declared event types, by name, source and version; those without a source first."""
        found = [each for declared in self._declared.values() for each in declared.values()]
        return sorted(found, key=lambda each: (each.name, each.source or "", by_number(each.version)))

    def find(self, name: str, version: str, source: str | None = None) -> EventType | None:
        """Return one version of an event type of a service; None for this one."""
        declared = self._declared.get(name)
        if declared is None:
            return None
        if source is None or source == settings.source:
            return self.own(name).get(version)
        return declared.get((source, version))

    def own(self, name: str) -> Mapping[str, EventType]:
        """Return the versions of an event type that this service publishes."""
        declared = self._declared.get(name)
        if declared is None:
            return _NONE
        return {each.version: each for each in declared.values() if each.is_own}

    def is_declared(self, name: str) -> bool:
        """True if this or another service publishes an event type."""
        return name in self._declared

    def undeclared(self, name: str) -> InvalidMessage:
        """Return the error for an event type that this service must declare to publish it."""
        if others := {each.source for each in self._declared.get(name, {}).values() if each.source}:
            services = " and ".join(sorted(others))
            reason = f"is declared as an event of {services}; this service is {settings.source}"
        else:
            reason = 'is not declared; declare it with @event_type in event_types.py, or set EVENT_TYPES to "optional"'
        return InvalidMessage("event_type", f"{name!r} {reason}")


def to_publish(own: Mapping[str, EventType], version: str, payload: Any) -> EventType:
    """Return what a payload must fit to be published.

    Args:
        own: the declared versions of its event type.
        version: its version. The default does not count as given: an instance of a declared class has the version of
            its class.

    Raises:
        InvalidMessage: the version is not declared, or not one of the payload's class.
    """
    of_class = _versions_of(type(payload), own)
    if of_class and version not in of_class:
        if len(of_class) > 1 or version != DEFAULT_VERSION:
            hint = "pass one of them as version" if len(of_class) > 1 else "omit version"
            name = type(payload).__name__
            raise InvalidMessage("version", f"{name} is declared as {' and '.join(of_class)}, got {version!r}; {hint}")
        (version,) = of_class
    if version not in own:
        name = next(iter(own.values())).name
        known = ", ".join(sorted(own, key=by_number))
        raise InvalidMessage(
            "version",
            f'{version!r} of {name!r} is not declared (declared: {known}). Add @event_type("{name}", version="{version}")',
        )
    return own[version]


def by_number(version: str) -> tuple[int, str]:
    """The key that sorts v2 before v10."""
    return len(version), version


def _versions_of(kind: type, versions: Mapping[str, EventType]) -> list[str]:
    """Return the versions that are declared with a class, else with the nearest of its base classes.

    A dict or another value of Python's own types has no version, even if one is declared as ``dict``.
    """
    for each in kind.__mro__:
        found = [version for version, declared in versions.items() if declared.payload_type is each]
        if found and each.__module__ != "builtins":
            return sorted(found, key=by_number)
    return []


def _place(payload_type: Any) -> tuple[str | None, str]:
    return getattr(payload_type, "__module__", None), str(payload_type)


def _full_name(payload_type: Any) -> str:
    if isinstance(payload_type, type):
        return f"{payload_type.__module__}.{payload_type.__qualname__}"
    return name_of(payload_type)


event_types = EventTypes()


def event_type(
    name: str, *, version: str = DEFAULT_VERSION, source: str | None = None
) -> Callable[[Declared], Declared]:
    """Declare the decorated class as the payload of an event type.

    ``publish()`` then refuses payloads that do not fit, and ``outbox_asyncapi`` and the admin show the JSON Schema. The
    class is a dataclass, a ``TypedDict``, a pydantic model or anything else that pydantic validates. Put declarations into
    ``event_types.py`` of any installed app. One class may be decorated several times.

    Args:
        name: such as ``"order.created"``.
        version: version of the payload's schema, as of ``publish()``. Versions are declared side by side.
        source: the service that publishes it, by its ``SOURCE`` (``ce_source`` on the wire), if it is another one.
            ``publish()`` ignores what is declared for other services.

    Raises:
        TypeError: an argument is not valid, or this version is declared already.
        MissingDependency: pydantic is not installed.
    """
    for argument, value in {
        "the event type": name,
        "version": version,
        "source": "-" if source is None else source,
    }.items():
        if not isinstance(value, str) or not value:
            raise TypeError(f'@event_type: {argument} must be text, as in @event_type("order.created"), not {value!r}.')
    require_pydantic(f"The event type {name} is declared with @event_type.")

    def declare(payload_type: Declared) -> Declared:
        event_types.declare(EventType(name, version, payload_type, source))
        return payload_type

    return declare
