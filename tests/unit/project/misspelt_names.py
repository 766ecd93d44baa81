"""Names that a type checker must not find. mypy fails if one of these errors is missing, as its comment is unused then."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from django_outbox import publsh  # type: ignore[attr-defined]  # noqa: F401
    from django_outbox.testing import drian  # type: ignore[attr-defined]  # noqa: F401
