"""What the doctor examines."""

from __future__ import annotations

from tests.support.doctor import other_session, subject

__all__ = ["other_session", "subject"]
