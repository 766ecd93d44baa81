"""The event types that a project declares: which payloads each has, by version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import autodiscover_modules

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
        source: the service that publishes it; None for this one.
    """

    name: str
    version: str
    payload_type: Any
    source: str | None

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

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
            raise ImproperlyConfigured(
                f"The event type {self} is declared as {self.type_name}, which cannot be used: {text_of(error)}"
            ) from error

    def replaces(self, old: EventType) -> bool:
        """True if this is the same type as an older one, as after a second import of its module."""
        return self.payload_type == old.payload_type or (
            _place(self.payload_type) is not None and _place(self.payload_type) == _place(old.payload_type)
        )


class EventTypes:
    """The declared event types of a project."""

    def __init__(self) -> None:
        self._versions: dict[str, dict[str, EventType]] = {}

    def declare(self, new: EventType) -> None:
        """Add an event type.

        Raises:
            TypeError: this version is declared already, with another type.
        """
        versions = self._versions.setdefault(new.name, {})
        old = versions.get(new.version)
        if old is not None and not new.replaces(old):
            raise TypeError(
                f"The event type {new} is declared twice, as {_full_name(old.payload_type)} and as "
                f"{_full_name(new.payload_type)}. Give one of them another version, as in "
                f'@event_type("{new.name}", version="v2").'
            )
        versions[new.version] = new

    def load(self) -> None:
        """Import the ``event_types`` module of every installed app."""
        autodiscover_modules(MODULE)

    def all(self) -> list[EventType]:
        """Return the declared event types, by name and version."""
        found = [each for versions in self._versions.values() for each in versions.values()]
        return sorted(found, key=lambda each: (each.name, len(each.version), each.version))

    def find(self, name: str, version: str) -> EventType | None:
        return self._versions.get(name, {}).get(version)

    def is_declared(self, name: str) -> bool:
        return name in self._versions

    def to_publish(self, name: str, version: str, payload: Any) -> EventType | None:
        """Return what a payload must fit to be published; None if its type is not declared.

        An instance of a declared class has the version of the class, unless ``version`` names another.

        Raises:
            InvalidMessage: ``version`` is not declared, or not the version of the payload's class.
        """
        versions = self._versions.get(name)
        if versions is None:
            return None
        own = _versions_of(type(payload), versions)
        if own and version not in own:
            if version != DEFAULT_VERSION:
                raise InvalidMessage(
                    "version", f"{version!r} is not that of {type(payload).__name__}, which is {' or '.join(own)}"
                )
            version = own[0]
        if version not in versions:
            known = ", ".join(sorted(versions))
            raise InvalidMessage("version", f"{version!r} of {name!r} is not declared; declared are: {known}")
        return versions[version]


def _versions_of(kind: type, versions: dict[str, EventType]) -> list[str]:
    """Return the versions that are declared with a class, else with the nearest of its base classes."""
    for each in kind.__mro__:
        if found := [version for version, declared in versions.items() if declared.payload_type is each]:
            return found
    return []


def _place(payload_type: Any) -> tuple[str, str] | None:
    if not isinstance(payload_type, type):
        return None
    return payload_type.__module__, payload_type.__qualname__


def _full_name(payload_type: Any) -> str:
    place = _place(payload_type)
    return name_of(payload_type) if place is None else ".".join(place)


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
        source: the service that publishes it, if it is another one.

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
