"""Template tags of the admin pages.

Django imports this even in projects without the admin, so this module must not import it.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from django import template
from django.template.defaultfilters import date
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from django_outbox.observability import text as texts

if TYPE_CHECKING:
    from django_outbox.admin.tables import Table
    from django_outbox.operations.selection import Selection

MOST_ROWS = 24
COLUMNS = 60  # characters per line of a textarea, approximately
LONG = 40

register = template.Library()
register.simple_tag(texts.status_badge, name="status")
register.filter("number", texts.number)
register.filter("shortened", texts.shortened)
register.filter("age", texts.age)
register.filter("until", texts.until)
register.filter("duration", texts.duration)
register.filter("breakable", texts.breakable)


@register.simple_tag
def action_url(table: Table, action: str, selection: Selection) -> str:
    return table.action_url(action, selection)


@register.simple_tag
def resume_url(pause: Any) -> str:
    return f"{reverse('admin:django_outbox_pause_resume')}?id={pause.id}"


@register.simple_tag
def message_url(table: Table, message: Any) -> str:
    return table.url_of(message)


@register.simple_tag
def ago(time: datetime | None) -> str:
    """How long ago, with the exact time as a tooltip."""
    return "-" if time is None else _time(time, texts.ago(time), _exact(time))


@register.simple_tag
def exact_time(time: datetime) -> SafeString:
    """A time to the second, with how long ago it was as a tooltip."""
    return _time(time, _exact(time), texts.ago(time))


def _time(time: datetime, shown: str, title: str) -> SafeString:
    return format_html('<time datetime="{}" title="{}">{}</time>', time.isoformat(), title, shown)


def _exact(time: datetime) -> str:
    return date(texts.local(time), "Y-m-d H:i:s")


@register.filter
def rows(text: str) -> int:
    """The height of a textarea for a text, in lines, including wrapped ones."""
    return min(sum(1 + len(line) // COLUMNS for line in text.split("\n")), MOST_ROWS)


@register.inclusion_tag("admin/django_outbox/fact.html")
def fact(message: Any, name: str) -> dict[str, Any]:
    """A field of a message, with its title."""
    value = getattr(message, name)
    shown = exact_time(value) if isinstance(value, datetime) else value
    if isinstance(value, str):
        shown = texts.breakable(value)
    title = message._meta.get_field(name).verbose_name
    return {"title": title, "value": shown, "is_long": isinstance(value, str) and len(value) > LONG}
