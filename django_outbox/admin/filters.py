"""The filters beside the lists: their choices come from settings and handlers, not from the table."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from django_outbox.conf import settings
from django_outbox.exceptions import HandlersNotImportable
from django_outbox.handlers.registry import GroupHandlers, Handler, Registry, registry
from django_outbox.observability import text as texts
from django_outbox.operations.selection import AGES, CRITERIA, FAILURES, Selection
from django_outbox.operations.stats import foreign_sources

Choices = Iterable[tuple[str, Any]]


def known_groups() -> list[str]:
    """The consumer groups of this project, the main one first."""
    return _registry().groups


def handlers_of(group: str) -> list[Handler]:
    """The handlers that a consumer of this group runs."""
    return _registry().for_group(group)


def known_topics() -> frozenset[str]:
    """Where this project publishes to, and where it gets events from, in whatever group."""
    return settings.written_topics.union(*map(topics_of, known_groups()))


def topics_of(group: str) -> frozenset[str]:
    """What a consumer of this group reads."""
    return GroupHandlers(_registry(), group).default_topics


def _registry() -> Registry:
    """The handlers of this project; those that could be imported."""
    with suppress(HandlersNotImportable):  # the overview tells
        registry.load()
    return registry


def _names(names: Iterable[str]) -> Choices:
    return [(name, texts.breakable(name)) for name in sorted(names)]


class CriterionFilter(admin.SimpleListFilter):
    """One criterion of a selection as a filter. A value that is no choice, as from a link, is shown as one."""

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
        types = {handler.event_type for group in known_groups() for handler in handlers_of(group)}
        return _names(types)


class TopicFilter(CriterionFilter):
    name = "topic"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return _names(known_topics())


class SourceFilter(CriterionFilter):
    """Shown if other services have messages on their way in the table."""

    name = "source"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        foreign = foreign_sources(model_admin.table.database)
        return [(name, name) for name in [settings.source, *foreign]] if foreign else ()


class GroupFilter(CriterionFilter):
    name = "group"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return _names(known_groups())


class AgeFilter(CriterionFilter):
    name = "age"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return [(name, title) for name, (_, title) in AGES.items()]


class FailuresFilter(CriterionFilter):
    name = "failures"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return [(name, title) for name, (_, title) in FAILURES.items()]


class ErrorFilter(CriterionFilter):
    """Chosen by a link from a group of dead letters; has no choices of its own."""

    name = "error"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return ()
