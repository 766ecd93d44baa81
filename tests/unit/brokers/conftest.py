"""The two client libraries; nothing here reaches a broker."""

from __future__ import annotations

from tests.support.brokers.backends import backend

__all__ = ["backend"]
