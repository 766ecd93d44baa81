"""Selects messages by criteria, as the query of a URL or the options of a command name them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

from django.db.models import Q, QuerySet, UUIDField
from django.utils.functional import Promise
from django.utils.http import urlencode
from django.utils.translation import gettext_lazy as _

from django_outbox.models import OutboxMessage
from django_outbox.models.fields import DatabaseNow
from django_outbox.operations.time_parsing import parse_time

LARGEST_ID = 2**63 - 1
NOTHING = Q(pk__in=[])

Model = Any  # the class of messages of a table

AGES = {
    "1m": (timedelta(minutes=1), _("over a minute")),
    "10m": (timedelta(minutes=10), _("over 10 minutes")),
    "1h": (timedelta(hours=1), _("over an hour")),
    "1d": (timedelta(days=1), _("over a day")),
    "7d": (timedelta(days=7), _("over a week")),
}
FAILURES = {"0": (Q(retry_count=0), _("none")), "1": (Q(retry_count__gte=1), _("at least one"))}
FAILURES["3"] = (Q(retry_count__gte=3), _("at least 3"))
FAILURES["10"] = (Q(retry_count__gte=10), _("at least 10"))


class SelectionError(ValueError):
    """A query has unknown criteria."""


def parse_id(text: str) -> int | None:
    """The id in a text; None if it is not a valid one."""
    if text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= LARGEST_ID:
        return int(text)
    return None


def _ids(text: str) -> Q:
    numbers = [parse_id(part) for part in text.split(",")]
    return NOTHING if None in numbers else Q(id__in=numbers)


def _changed(comparison: str, text: str) -> Q:
    try:
        time = parse_time(text)
    except ValueError:
        return NOTHING
    # Ages count from the database's clock.
    return Q(**{f"updated_at__{comparison}": DatabaseNow() - time if isinstance(time, timedelta) else time})


def has_id(text: str) -> Q:
    """The message with this id."""
    return NOTHING if (number := parse_id(text)) is None else Q(id=number)


def has_event_id(model: Model, text: str) -> Q:
    """The messages with this event id: in the outbox a UUID, in the inbox any text."""
    if not isinstance(model._meta.get_field("event_id"), UUIDField):
        return Q(event_id=text)
    with suppress(ValueError):
        return Q(event_id=uuid.UUID(text))
    return NOTHING


def has_name(model: Model, text: str) -> Q:
    """The messages with this id, event id or key. Payloads and errors are not searched."""
    term = text.strip()
    return has_id(term) | has_event_id(model, term) | Q(message_key=term)


class Criterion(NamedTuple):
    """One criterion: its title, its condition for a value, and how to show the value."""

    title: str | Promise
    condition: Callable[[Model, str], Q]
    shown: Callable[[str], object] = str


CRITERIA: Mapping[str, Criterion] = {
    "ids": Criterion(_("id"), lambda model, text: _ids(text), lambda text: text.replace(",", ", ")),
    "status": Criterion(
        _("status"),
        lambda model, text: Q(status=text, id__gt=0) if text in model.Status.values else NOTHING,
        lambda text: dict(OutboxMessage.Status.choices).get(text, text),
    ),
    "type": Criterion(_("event type"), lambda model, text: Q(event_type=text)),
    "topic": Criterion(_("topic"), lambda model, text: Q(topic=text)),
    "source": Criterion(_("source"), lambda model, text: Q(source=text)),
    "group": Criterion(_("consumer group"), lambda model, text: Q(group=text) if hasattr(model, "group") else NOTHING),
    "error": Criterion(_("error"), lambda model, text: Q(fingerprint="" if text == "-" else text)),
    "age": Criterion(
        _("age"),
        lambda model, text: Q(created_at__lte=DatabaseNow() - AGES[text][0]) if text in AGES else NOTHING,
        lambda text: AGES[text][1] if text in AGES else text,
    ),
    "failures": Criterion(
        _("failures"),
        lambda model, text: FAILURES[text][0] if text in FAILURES else NOTHING,
        lambda text: FAILURES[text][1] if text in FAILURES else text,
    ),
    "q": Criterion(_("id, event id or key"), has_name),
    "key": Criterion(_("key"), lambda model, text: Q(message_key=text)),
    "text": Criterion(_("error contains"), lambda model, text: Q(last_error__contains=text)),
    # When a dead letter died.
    "since": Criterion(_("since"), lambda model, text: _changed("gte", text)),
    "until": Criterion(_("until"), lambda model, text: _changed("lt", text)),
}


@dataclass(frozen=True)
class Selection:
    """Messages that meet all criteria; without criteria, all messages."""

    values: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Selection:
        """The selection that a query describes.

        Raises:
            SelectionError: it has unknown criteria. Ignoring them would select more messages.
        """
        unknown = [name for name in query if name not in CRITERIA]
        if unknown:
            raise SelectionError(", ".join(unknown))
        return cls({name: value for name, value in query.items() if value or name == "ids"})

    def apply(self, messages: QuerySet[Any]) -> QuerySet[Any]:
        for name, value in self.values.items():
            # No text column can hold NUL; PostgreSQL would reject the query.
            condition = NOTHING if "\0" in value else CRITERIA[name].condition(messages.model, value)
            messages = messages.filter(condition)
        return messages

    @property
    def only_id(self) -> int | None:
        """The id, if the selection names exactly one."""
        return parse_id(self.values.get("ids", ""))

    def describe(self) -> list[tuple[object, object]]:
        """Each criterion's title and value, to show."""
        return [(CRITERIA[name].title, CRITERIA[name].shown(value)) for name, value in self.values.items()]

    def __str__(self) -> str:
        return "; ".join(f"{title}: {value}" for title, value in self.describe())

    @property
    def query(self) -> str:
        return urlencode(self.values)
