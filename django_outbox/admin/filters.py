"""The filters of the lists. Their choices come from settings and handlers, not from the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from django_outbox.admin.tables import Table
from django_outbox.conf import settings
from django_outbox.observability import text as texts
from django_outbox.operations.counts import foreign_sources
from django_outbox.operations.selection import AGES, CRITERIA, FAILURES, Selection
from django_outbox.operations.topics import known_topics, loaded_registry

Choices = Iterable[tuple[str, Any]]


def _names(names: Iterable[str]) -> Choices:
    return [(name, texts.breakable(name)) for name in sorted(names)]


def _types(table: Table) -> Choices:
    return _names({each.event_type for _, each in loaded_registry().of_all_groups()})


def _sources(table: Table) -> Choices:
    foreign = foreign_sources(table.database)
    return [(name, name) for name in [settings.source, *foreign]] if foreign else ()


CHOICES: dict[str, Callable[[Table], Choices]] = {
    "status": lambda table: table.model.Status.choices,
    "type": _types,
    "topic": lambda table: _names(known_topics()),
    "source": _sources,
    "group": lambda table: _names(loaded_registry().groups),
    "age": lambda table: [(name, title) for name, (_, title) in AGES.items()],
    "failures": lambda table: [(name, title) for name, (_, title) in FAILURES.items()],
    "error": lambda table: (),  # only set by the link of an error group
}


class CriterionFilter(admin.SimpleListFilter):
    """A criterion of a selection as a filter. A value from a link is added to the choices."""

    parameter_name: str

    def __init__(self, request: HttpRequest, params: Any, model: Any, model_admin: Any) -> None:
        super().__init__(request, params, model, model_admin)
        value = self.value()
        if value and value not in [choice for choice, _ in self.lookup_choices]:
            self.lookup_choices = [*self.lookup_choices, (value, str(CRITERIA[self.parameter_name].shown(value)))]

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return CHOICES[self.parameter_name](model_admin.table)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        return Selection({self.parameter_name: value}).apply(queryset) if value else queryset


def filters(*names: str) -> list[type[CriterionFilter]]:
    """A filter for each of these criteria."""
    return [type(name, (CriterionFilter,), {"parameter_name": name, "title": CRITERIA[name].title}) for name in names]
