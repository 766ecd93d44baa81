"""Which handlers a consumer group runs on what comes through the inbox."""

from __future__ import annotations

from django_outbox.conf import settings
from django_outbox.handlers import Handler, Registry


class GroupHandlers:
    """The handlers of one consumer group.

    The project's own group runs the handlers that name no group, and those that name it. A group
    that only some handlers name is apart: it runs those alone, on the records of all services.
    """

    def __init__(self, registry: Registry, group: str) -> None:
        handlers = registry.for_group(group)
        named = [handler for handler in handlers if handler.group == group]
        self.apart = bool(named) and group != settings.consumer_group
        """True if all records are for the inbox, those of this service's own outbox as well."""
        self._handlers = named if self.apart else handlers

    @property
    def topics(self) -> set[str]:
        """The topics that the handlers name."""
        return {handler.topic for handler in self._handlers if handler.topic}

    def find(self, event_type: str, topic: str) -> list[Handler]:
        """The handlers that want an event of this type, from this topic."""
        return [
            handler for handler in self._handlers if handler.event_type == event_type and handler.topic in (None, topic)
        ]

    def want(self, event_type: str, topic: str) -> bool:
        """True if something is to be done with such an event, be it that nobody handles it.

        To a group that is apart no event is unknown: what it does not name is for others.
        """
        unknown_is_dead = settings.unknown_event == "dead" and not self.apart
        return unknown_is_dead or bool(self.find(event_type, topic))
