"""What plots share: their style for light and dark pages, their head, and round numbers for axes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

WIDTH = 760
LEFT, RIGHT = 78, 28
STYLE = """
    svg { color-scheme: light dark; font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
    .page { fill: #ffffff; } .ink { fill: #1f2328; } .faint { fill: #59636e; }
    .grid { stroke: #d1d9e0; } .axis { stroke: #818b98; }
    .series0 { --tone: #0969da; } .series1 { --tone: #bc4c00; }
    .line { fill: none; stroke: var(--tone); stroke-width: 2.5; stroke-linejoin: round; }
    .raw { stroke-dasharray: 6 5; stroke-width: 1.75; }
    .dot { fill: var(--tone); } .hollow { fill: none; stroke: var(--tone); stroke-width: 1.75; }
    .span { stroke: var(--tone); stroke-width: 1; opacity: 0.6; }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117; } .ink { fill: #f0f6fc; } .faint { fill: #9198a1; }
      .grid { stroke: #2f353d; } .axis { stroke: #656c76; }
      .series0 { --tone: #58a6ff; } .series1 { --tone: #ffa657; }
    }
"""


def head(title: str, subtitle: str, description: str, height: int) -> Iterator[str]:
    """The beginning of an SVG, up to its title; ``</svg>`` ends it."""
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' role="img" aria-labelledby="title description">'
    )
    yield f'<title id="title">{escape(title)}</title>'
    yield f'<desc id="description">{escape(description)}</desc>'
    yield f"<style>{STYLE}</style>"
    yield f'<rect class="page" width="{WIDTH}" height="{height}" rx="8"/>'
    yield f'<text class="ink" x="{LEFT}" y="30" font-size="17" font-weight="600">{escape(title)}</text>'
    yield f'<text class="faint" x="{LEFT}" y="50">{escape(subtitle)}</text>'


def round_step(highest: float) -> float:
    """A round number of which about five reach the highest value."""
    rough = highest / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)


def panel(name: str, top: int, height: int, highest: float) -> Iterator[str]:
    """The grid of one of several panels, one below the other, with its name above it; values are from 0 to the highest."""
    step = round_step(highest)
    for number in range(int(highest / step) + 1):
        y = top + height * (1 - number * step / highest)
        yield f'<line class="{"grid" if number else "axis"}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="faint" x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{number * step:,.10g}</text>'
    yield f'<text class="faint" x="{WIDTH - RIGHT}" y="{top - 8}" text-anchor="end" font-size="12">{name}</text>'


def x_of(second: float, seconds: float) -> float:
    """Where a second is on a time axis of so many seconds."""
    return LEFT + (WIDTH - LEFT - RIGHT) * min(max(second, 0), seconds) / max(seconds, 1)


def time_axis(y: int, seconds: float) -> Iterator[str]:
    """The names of the seconds below the last panel."""
    step = max(round(round_step(seconds)), 1)
    for second in range(0, int(seconds) + 1, step):
        yield f'<text class="faint" x="{x_of(second, seconds):.1f}" y="{y + 18}" text-anchor="middle">{second:,}</text>'
    yield f'<text class="ink" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{y + 38}" text-anchor="middle">seconds</text>'
