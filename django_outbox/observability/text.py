"""Ages, states, shortened texts and pretty JSON, as the pages show them."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from django.utils.formats import number_format
from django.utils.html import escape, format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.timesince import timesince
from django.utils.translation import gettext, ngettext

_ENDS = re.compile(r"([._/:])(?=\w)|(?<=[a-z])(?=[A-Z])")
_PIECES = re.compile(r"[^-]{1,12}-*|-+", re.DOTALL)
LINE_LENGTH = 80
NAME_LENGTH = 48


def age(since: datetime | None) -> str:
    """How long ago, in words: seconds up to two minutes, then the two largest units."""
    if since is None:
        return "-"
    now = timezone.now()
    seconds = max(0, int((now - since).total_seconds()))
    if seconds < 120:
        return duration(seconds)
    return timesince(since, now)


def ago(since: datetime | None) -> str:
    """The same with "ago", for a moment that stands alone."""
    return "-" if since is None else gettext("%(age)s ago") % {"age": age(since)}


def until(moment: datetime | None) -> str:
    """How long until a time comes, in words."""
    if moment is None:
        return "-"
    seconds = (moment - timezone.now()).total_seconds()
    return gettext("in %(duration)s") % {"duration": duration(seconds)} if seconds >= 1 else gettext("now")


def duration(seconds: float) -> str:
    """A number of seconds in words."""
    seconds = int(seconds)
    if seconds < 120:
        return ngettext("%(count)d second", "%(count)d seconds", seconds) % {"count": seconds}
    start = datetime(2024, 1, 1)  # noqa: DTZ001  # only a point to count from
    return timesince(start, start + timedelta(seconds=seconds))


def number(count: int) -> str:
    """A count with its thousands apart, as the language writes them."""
    return number_format(count, use_l10n=True, force_grouping=True)


def one_line(text: str, length: int = LINE_LENGTH) -> str:
    """The first line of a text, shortened."""
    line = text.split("\n", 1)[0]
    return line if len(line) <= length else line[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def visible(text: str) -> str:
    """A text in one line, in which nothing steers a terminal or begins another line: names may come from anybody."""
    line = " ".join(text.split())
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in line)


def shortened(text: str, length: int = NAME_LENGTH) -> str:
    """A name for a list: of a long one its beginning and its end, as long ones often begin alike; "-" for none."""
    if len(text) <= length:
        return text or "-"
    end = length // 3
    return f"{text[: length - end - 1]}\N{HORIZONTAL ELLIPSIS}{text[-end:]}"


def breakable(name: str) -> SafeString:
    """A name as HTML that can go on in the next line where its parts end, and not within a word."""
    return mark_safe(_ENDS.sub(r"\1<wbr>", str(escape(name))))  # noqa: S308  # it is escaped


def in_pieces(key: str) -> SafeString:
    """A key as HTML that can go on in the next line after a hyphen, and after each twelve characters without one.

    So the last part of a UUID stays in one line.
    """
    return format_html_join(mark_safe("<wbr>"), "{}", ((piece,) for piece in _PIECES.findall(key)))


def local(moment: datetime) -> datetime:
    """A time in the zone of the project, or of the request."""
    return timezone.localtime(moment) if timezone.is_aware(moment) else moment


def pretty(value: Any) -> str:
    """A value as JSON, over several lines."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def status_badge(message: Any) -> SafeString:
    """A message's state, told by a word and, beside it, by a colour."""
    return format_html('<span class="outbox-status outbox-{}">{}</span>', message.status, message.get_status_display())
