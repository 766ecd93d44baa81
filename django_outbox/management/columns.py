"""Tables in plain text."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from django_outbox.observability.text import visible


def columns(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> str:
    """Align rows of cells; the first row is the header.

    Args:
        rows: all of the same length.
        right: indexes of the columns to align right.
    """
    shown = [list(map(visible, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in shown
    )


def duration(seconds: float | None) -> str:
    """A duration in its two largest units; "-" for None."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    rest = int(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        number, rest = divmod(rest, length)
        if number or parts:
            parts.append(f"{number} {unit}" if number else "")
    return " ".join(part for part in parts[:2] if part)
