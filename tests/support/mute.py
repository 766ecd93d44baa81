"""Errors that raise another one when they are asked for their text."""

from __future__ import annotations

from django_outbox.exceptions import Reject, Retry


class Mute(Exception):
    def __str__(self) -> str:
        return self.detail  # type: ignore[attr-defined,no-any-return]


class MuteReject(Mute, Reject):
    pass


class MuteRetry(Mute, Retry):
    pass
