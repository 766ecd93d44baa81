"""The serializers of ``SERIALIZERS``, by event type."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from django_outbox.conf import TASK_PREFIX, settings
from django_outbox.conf.values import import_function
from django_outbox.exceptions import InvalidMessage
from django_outbox.serializers.base import Serializer


class Serializers:
    """The serializers of a project."""

    def __init__(self, given: Mapping[str, Mapping[str, Any]], dead_letter_topic: str | None) -> None:
        """
        Raises:
            ImproperlyConfigured: a class cannot be imported, or an option is invalid.
        """
        self._by_pattern = {pattern: _made(pattern, each) for pattern, each in given.items()}
        self._find = lru_cache(1000)(self._first_match)  # records of others may name any number of types
        self._dead_letter_topic = dead_letter_topic

    def all(self) -> Mapping[str, Serializer]:
        """Return the serializers by pattern."""
        return self._by_pattern

    def find(self, event_type: str, topic: str) -> Serializer | None:
        """Return the serializer of an event; None for JSON, as in copies of dead letters, which may not fit a schema."""
        return None if topic == self._dead_letter_topic else self._find(event_type)

    def validate(self, payload: Any, event_type: str, topic: str) -> None:
        """Check a payload, as JSON returns it, by the serializer of its event type.

        Raises:
            InvalidMessage, ImproperlyConfigured: as of ``Serializer.validate``.
        """
        serializer = self.find(event_type, topic)
        if serializer is None:
            return
        try:
            serializer.validate(payload, event_type, topic)
        except (InvalidMessage, ImproperlyConfigured):
            raise
        except Exception as error:  # it may be the project's own
            raise InvalidMessage("payload", f"its serializer failed ({type(error).__name__})") from error

    def _first_match(self, event_type: str) -> Serializer | None:
        if event_type.startswith(TASK_PREFIX):  # only this service reads its arguments, from the row
            return None
        matches = (each for pattern, each in self._by_pattern.items() if fnmatchcase(event_type, pattern))
        return next(matches, None)


def _made(pattern: str, given: Mapping[str, Any]) -> Serializer:
    name = f'SERIALIZERS"]["{pattern}'
    made: Any = import_function(f'{name}"]["CLASS', given["CLASS"])
    try:
        serializer = made(**given.get("OPTIONS", {}))
    except (TypeError, ImproperlyConfigured) as error:
        raise ImproperlyConfigured(f'OUTBOX["{name}"]["OPTIONS"]: {error}') from None
    except Exception as error:  # of any class; its text may show an option
        raise ImproperlyConfigured(f'OUTBOX["{name}"]["OPTIONS"] are not valid ({type(error).__name__}).') from None
    if not isinstance(serializer, Serializer):
        raise ImproperlyConfigured(f'OUTBOX["{name}"]["CLASS"] must name a subclass of {Serializer.__qualname__}.')
    return serializer


def import_classes() -> None:
    """Import the classes of the setting with the libraries that they need, which takes a part of a second.

    Those that cannot be imported are reported by the system checks.
    """
    with suppress(ImproperlyConfigured):
        for each in settings.serializers.values():
            import_function("SERIALIZERS", each["CLASS"])


NO_SERIALIZERS = Serializers({}, None)
_current: tuple[object, str | None, Serializers] = ({}, None, NO_SERIALIZERS)


def current_serializers() -> Serializers:
    """Return the serializers of the settings, made once for each value of ``SERIALIZERS``.

    Raises:
        ImproperlyConfigured: the setting is invalid.
    """
    global _current
    given = settings.raw.get("SERIALIZERS")
    if not given:
        return NO_SERIALIZERS
    dead_letter_topic = settings.dead_letter_topic
    if _current[0] is not given or _current[1] != dead_letter_topic:
        _current = (given, dead_letter_topic, Serializers(settings.serializers, dead_letter_topic))
    return _current[2]
