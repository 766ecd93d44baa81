"""What the doctor examines."""

from __future__ import annotations

from tests.support.doctor import forget_brokers, other_session, subject

__all__ = ["forget_brokers", "other_session", "subject"]
