"""The filters of the lists. Their choices come from settings and handlers, not from the table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from django_outbox.conf import settings
from django_outbox.observability import text as texts
from django_outbox.operations.counts import foreign_sources
from django_outbox.operations.selection import AGES, CRITERIA, FAILURES, Selection
from django_outbox.operations.topics import known_topics, loaded_registry

Choices = Iterable[tuple[str, Any]]


def _names(names: Iterable[str]) -> Choices:
    return [(name, texts.breakable(name)) for name in sorted(names)]


class CriterionFilter(admin.SimpleListFilter):
    """A criterion of a selection as a filter. A value from a link is added to the choices."""

    name: ClassVar[str]

    def __init__(self, request: HttpRequest, params: Any, model: Any, model_admin: Any) -> None:
        self.parameter_name = self.name
        self.title = CRITERIA[self.name].title  # type: ignore[assignment]
        super().__init__(request, params, model, model_admin)
        value = self.value()
        if value and value not in [choice for choice, _ in self.lookup_choices]:
            self.lookup_choices = [*self.lookup_choices, (value, str(CRITERIA[self.name].shown(value)))]

    def has_output(self) -> bool:
        return bool(self.lookup_choices)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        return Selection({self.name: value}).apply(queryset) if value else queryset


class StatusFilter(CriterionFilter):
    name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        choices: Choices = model_admin.model.Status.choices
        return choices


class TypeFilter(CriterionFilter):
    name = "type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        handlers = loaded_registry()
        return _names({each.event_type for group in handlers.groups for each in handlers.for_group(group)})


class TopicFilter(CriterionFilter):
    name = "topic"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return _names(known_topics())


class SourceFilter(CriterionFilter):
    """Shown if other services have unfinished messages in the table."""

    name = "source"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        foreign = foreign_sources(model_admin.table.database)
        return [(name, name) for name in [settings.source, *foreign]] if foreign else ()


class GroupFilter(CriterionFilter):
    name = "group"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return _names(loaded_registry().groups)


class AgeFilter(CriterionFilter):
    name = "age"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return [(name, title) for name, (_, title) in AGES.items()]


class FailuresFilter(CriterionFilter):
    name = "failures"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return [(name, title) for name, (_, title) in FAILURES.items()]


class ErrorFilter(CriterionFilter):
    """Set by the link of an error group; has no choices."""

    name = "error"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return ()
