"""Template tags of the operators' pages.

Django imports this in every project, also in one without the admin: nothing of the admin is imported here.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from django import template
from django.template.defaultfilters import date
from django.utils.html import format_html
from django.utils.safestring import SafeString

from django_outbox.observability import text as texts

if TYPE_CHECKING:
    from django_outbox.admin.tables import Table
    from django_outbox.operations.selection import Selection

MOST_ROWS = 24
COLUMNS = 60  # about as many characters as a line of a textarea has
LONG = 40

register = template.Library()
register.simple_tag(texts.status_badge, name="status")
register.filter("number", texts.number)
register.filter("shortened", texts.shortened)
register.filter("age", texts.age)
register.filter("breakable", texts.breakable)


@register.simple_tag
def action_url(table: Table, action: str, selection: Selection) -> str:
    return table.action_url(action, selection)


@register.simple_tag
def message_url(table: Table, message: Any) -> str:
    return table.url_of(message)


@register.simple_tag
def ago(moment: datetime | None) -> str:
    """How long ago, with the exact time for those who ask."""
    return "-" if moment is None else _time(moment, texts.ago(moment), _exact(moment))


@register.simple_tag
def lasting(moment: datetime) -> SafeString:
    """For how long since then, with the exact time for those who ask."""
    return _time(moment, texts.age(moment), _exact(moment))


@register.simple_tag
def moment_time(moment: datetime) -> SafeString:
    """A time to the second, with how long ago that was for those who ask."""
    return _time(moment, _exact(moment), texts.ago(moment))


def _time(moment: datetime, shown: str, title: str) -> SafeString:
    return format_html('<time datetime="{}" title="{}">{}</time>', moment.isoformat(), title, shown)


def _exact(moment: datetime) -> str:
    return date(texts.local(moment), "Y-m-d H:i:s")


@register.filter
def rows(text: str) -> int:
    """The height of a textarea for a text, in lines, those that are wrapped included."""
    return min(sum(1 + len(line) // COLUMNS for line in text.split("\n")), MOST_ROWS)


@register.inclusion_tag("admin/django_outbox/fact.html")
def fact(message: Any, name: str) -> dict[str, Any]:
    """One column of a message with its title."""
    value = getattr(message, name)
    shown = moment_time(value) if isinstance(value, datetime) else value
    if isinstance(value, str):
        shown = texts.breakable(value)
    title = message._meta.get_field(name).verbose_name
    return {"title": title, "value": shown, "is_long": isinstance(value, str) and len(value) > LONG}
