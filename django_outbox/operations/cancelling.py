"""The reason of a cancelled message."""

from __future__ import annotations


def cancel_reason(who: str, why: str) -> str:
    """The error of a message that an operator cancels.

    Dead letters are grouped by its first line, so by who cancelled them.
    """
    return f"Cancelled by {who}.\n\n{why.strip()}"
