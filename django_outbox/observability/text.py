"""Formats ages, durations, names and JSON for pages and commands."""

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
    """The time since then, in words: seconds up to two minutes, then the two largest units."""
    if since is None:
        return "-"
    now = timezone.now()
    seconds = max(0, int((now - since).total_seconds()))
    if seconds < 120:
        return duration(seconds)
    return timesince(since, now)


def ago(since: datetime | None) -> str:
    """The same with "ago"."""
    return "-" if since is None else gettext("%(age)s ago") % {"age": age(since)}


def until(time: datetime | None) -> str:
    """The time until then, in words."""
    if time is None:
        return "-"
    seconds = (time - timezone.now()).total_seconds()
    return gettext("in %(duration)s") % {"duration": duration(seconds)} if seconds >= 1 else gettext("now")


def duration(seconds: float) -> str:
    """A number of seconds in words."""
    seconds = int(seconds)
    if seconds < 120:
        return ngettext("%(count)d second", "%(count)d seconds", seconds) % {"count": seconds}
    start = datetime(2024, 1, 1)  # noqa: DTZ001  # an arbitrary start
    return timesince(start, start + timedelta(seconds=seconds))


def number(count: int) -> str:
    """A number with the language's thousands separators."""
    return number_format(count, use_l10n=True, force_grouping=True)


def one_line(text: str, length: int = LINE_LENGTH) -> str:
    """The first line of a text, shortened."""
    line = text.split("\n", 1)[0]
    return line if len(line) <= length else line[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def visible(text: str) -> str:
    """A text in one line without control characters: foreign names must not control a terminal or forge lines."""
    line = " ".join(text.split())
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in line)


def shortened(text: str, length: int = NAME_LENGTH) -> str:
    """A name for a list; a long one is shortened in the middle, as its end often matters; "-" for none."""
    if len(text) <= length:
        return text or "-"
    end = length // 3
    return f"{text[: length - end - 1]}\N{HORIZONTAL ELLIPSIS}{text[-end:]}"


def breakable(name: str) -> SafeString:
    """A name as HTML that can break between its parts, not within a word."""
    return mark_safe(_ENDS.sub(r"\1<wbr>", str(escape(name))))  # noqa: S308  # it is escaped


def in_pieces(key: str) -> SafeString:
    """A key as HTML that can break after hyphens and after twelve characters, so that parts of a UUID stay whole."""
    return format_html_join(mark_safe("<wbr>"), "{}", ((piece,) for piece in _PIECES.findall(key)))


def local(time: datetime) -> datetime:
    """A time in the current time zone."""
    return timezone.localtime(time) if timezone.is_aware(time) else time


def pretty(value: Any) -> str:
    """A value as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def status_badge(message: Any) -> SafeString:
    """The status of a message, as a colored word."""
    return format_html('<span class="outbox-status outbox-{}">{}</span>', message.status, message.get_status_display())


def size(number: int | None) -> str:
    """A number of bytes in its largest unit; "-" for None."""
    if number is None:
        return "-"
    for unit, length in (("GB", 2**30), ("MB", 2**20), ("kB", 2**10)):
        if number >= length:
            return f"{number / length:,.1f} {unit}"
    return f"{number} bytes"
