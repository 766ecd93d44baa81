"""What the doctor examines."""

from __future__ import annotations

from tests.support.doctor import forget_brokers, installation, other_session

__all__ = ["forget_brokers", "installation", "other_session"]
