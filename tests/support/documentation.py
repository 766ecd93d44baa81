"""What runs write into the pages of the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

END = ".. to here."


def renew(page: Path, begin: str, text: str) -> None:
    """Replace what stands between the comment ``begin`` and the next ``END``.

    Raises:
        ValueError: the page has lost them.
    """
    before, found, rest = page.read_text().partition(begin)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise ValueError(f"{page.name} has lost the comments '{begin}' and '{END}'")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def table(rows: Sequence[Sequence[str]]) -> str:
    """A simple table of reStructuredText, whose first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([rule, texts[0], rule, *texts[1:], rule])
