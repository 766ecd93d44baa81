"""How far long work has come, for people and for logs."""

from __future__ import annotations

import io

from django.core.management.base import OutputWrapper

from django_outbox.management.progress import Progress
from tests.support.clock import Clock


def show(*seconds: float, terminal: bool) -> str:
    out = io.StringIO()
    out.isatty = lambda: terminal  # type: ignore[method-assign]
    clock = Clock()
    wrapper = OutputWrapper(out)
    wrapper.style_func = lambda text: f"<red>{text}</red>"
    with Progress(wrapper, clock) as progress:
        for number, moment in enumerate(seconds):
            clock.now = moment
            progress.show(number / 4, f"{number} done")
    return out.getvalue()


def test_a_terminal_gets_a_bar_that_is_gone_at_the_end() -> None:
    shown = show(0, 0.01, 0.2, 0.3, terminal=True).split("\r")
    assert shown[1] == "[..............................]   0%  0 done"
    assert shown[2] == "[###############...............]  50%  2 done"
    assert shown[-2:] == [" " * len(shown[3]), ""]


def test_elsewhere_there_is_a_plain_line_every_ten_seconds() -> None:
    assert show(0, 5, 10, 15, terminal=False) == " 50%  2 done\n"


def test_what_is_done_at_once_shows_nothing_elsewhere() -> None:
    assert show(0, 0.1, terminal=False) == ""
