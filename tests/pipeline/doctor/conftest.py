"""What the doctor examines."""

from __future__ import annotations

from tests.support.doctor import installation, other_session

__all__ = ["installation", "other_session"]
