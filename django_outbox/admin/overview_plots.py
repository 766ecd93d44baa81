"""The plots of the overview: throughput in 24 hours, and dead messages in 14 days."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.utils.formats import date_format
from django.utils.translation import gettext, pgettext

from django_outbox.admin.history import dead_by_day
from django_outbox.admin.plots import Plot, Series, bar_plot, line_plot
from django_outbox.admin.tables import INBOX, Table
from django_outbox.observability import text as texts
from django_outbox.operations.activity import Throughput


def overview_plots(tables: Sequence[Table], done: Throughput, now: datetime) -> list[Plot]:
    """Throughput of the outbox and, if it is used, of the inbox; dead messages of both."""
    times = [date_format(texts.local(start), "H:i") for start in done.starts]
    found = [
        line_plot(
            gettext("Outbox, last 24 hours"),
            gettext("Messages of the outbox written, published and consumed per ten minutes, in the last 24 hours"),
            times,
            [
                Series("in", gettext("written"), done.written),
                Series("sent", gettext("published"), done.published),
                Series("out", gettext("consumed"), done.consumed),
            ],
            every=36,
        )
    ]
    if INBOX in tables:
        found.append(
            line_plot(
                gettext("Inbox, last 24 hours"),
                gettext("Messages of the inbox received and consumed per ten minutes, in the last 24 hours"),
                times,
                [
                    Series("in", gettext("received"), done.inbox_received),
                    Series("out", gettext("consumed"), done.inbox_consumed),
                ],
                every=36,
            )
        )
    return [*found, _dead_plot(tables, now)]


def _dead_plot(tables: Sequence[Table], now: datetime) -> Plot:
    days = dead_by_day(tables, now)
    # Translators: a day without its year, short, in Django's format
    day_format = pgettext("date format", "N j")
    names = {
        table: ("inbox", gettext("inbox")) if table.is_inbox else ("outbox", gettext("outbox")) for table in tables
    }
    series = [Series(*names[table], [counts[table] for counts in days.values()]) for table in tables]
    return bar_plot(
        gettext("Dead messages, last 14 days"),
        gettext("Messages that became dead per day, in the last 14 days"),
        [date_format(day, day_format) for day in days],
        series,
        every=4,
    )
