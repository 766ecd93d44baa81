"""Which messages a list shows or an action is about, as the query of a URL says it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

from django.db.models import Q, QuerySet
from django.utils.functional import Promise
from django.utils.http import urlencode
from django.utils.translation import gettext_lazy as _

from django_outbox.fields import DatabaseNow
from django_outbox.models import OutboxMessage

LARGEST_ID = 2**63 - 1
NOTHING = Q(pk__in=[])

AGES = {
    "1m": (timedelta(minutes=1), _("over a minute")),
    "10m": (timedelta(minutes=10), _("over 10 minutes")),
    "1h": (timedelta(hours=1), _("over an hour")),
    "1d": (timedelta(days=1), _("over a day")),
    "7d": (timedelta(days=7), _("over a week")),
}
FAILURES = {"0": (Q(retry_count=0), _("none")), "1": (Q(retry_count__gte=1), _("at least one"))}
FAILURES["10"] = (Q(retry_count__gte=10), _("at least 10"))


class SelectionError(ValueError):
    """A query says what no selection can be made of."""


def _number(text: str) -> int | None:
    if text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= LARGEST_ID:
        return int(text)
    return None


def _ids(text: str) -> Q:
    numbers = [_number(part) for part in text.split(",")]
    return NOTHING if None in numbers else Q(id__in=numbers)


def identified_by(text: str) -> Q | None:
    """The message with this id or event id; None if it can be neither."""
    wanted = None if (number := _number(text)) is None else Q(id=number)
    with suppress(ValueError):
        by_event_id = Q(event_id=uuid.UUID(text))
        wanted = by_event_id if wanted is None else wanted | by_event_id
    return wanted


def named_exactly(text: str) -> Q:
    """What has this id, event id or key. Payloads and errors are not searched."""
    term = text.strip()
    identified = identified_by(term)
    return Q(message_key=term) if identified is None else identified | Q(message_key=term)


class Criterion(NamedTuple):
    """One thing that messages are chosen by."""

    title: str | Promise
    condition: Callable[[str], Q]
    shown: Callable[[str], object] = str


CRITERIA: Mapping[str, Criterion] = {
    "ids": Criterion(_("id"), _ids, lambda text: text.replace(",", ", ")),
    "status": Criterion(
        _("status"),
        lambda text: Q(status=text) if text in OutboxMessage.Status.values else NOTHING,
        lambda text: dict(OutboxMessage.Status.choices).get(text, text),
    ),
    "type": Criterion(_("event type"), lambda text: Q(event_type=text)),
    "topic": Criterion(_("topic"), lambda text: Q(topic=text)),
    "error": Criterion(_("error"), lambda text: Q(fingerprint="" if text == "-" else text)),
    "age": Criterion(
        _("age"),
        lambda text: Q(created_at__lte=DatabaseNow() - AGES[text][0]) if text in AGES else NOTHING,
        lambda text: AGES[text][1] if text in AGES else text,
    ),
    "failures": Criterion(
        _("failures"),
        lambda text: FAILURES[text][0] if text in FAILURES else NOTHING,
        lambda text: FAILURES[text][1] if text in FAILURES else text,
    ),
    "q": Criterion(_("id, event id or key"), named_exactly),
}


@dataclass(frozen=True)
class Selection:
    """Messages that meet all of some criteria; with none, all messages."""

    values: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Selection:
        """What a query selects.

        Raises:
            SelectionError: if it asks for what is unknown here: leaving that out would select more.
        """
        unknown = [name for name in query if name not in CRITERIA]
        if unknown:
            raise SelectionError(", ".join(unknown))
        return cls({name: value for name, value in query.items() if value or name == "ids"})

    def apply(self, messages: QuerySet[Any]) -> QuerySet[Any]:
        for name, value in self.values.items():
            # A text column cannot hold NUL, so nothing has it; PostgreSQL would refuse the question.
            condition = NOTHING if "\0" in value else CRITERIA[name].condition(value)
            messages = messages.filter(condition)
        return messages

    def describe(self) -> list[tuple[object, object]]:
        """Each criterion's title and value, for people."""
        return [(CRITERIA[name].title, CRITERIA[name].shown(value)) for name, value in self.values.items()]

    def __str__(self) -> str:
        return "; ".join(f"{title}: {value}" for title, value in self.describe())

    @property
    def query(self) -> str:
        return urlencode(self.values)
