"""Signals about messages, sent after the commit.

They are sent with ``send_robust``: Django logs a receiver that raises, and the worker continues. Receivers run in the
loop of the relay or consumer; move slow work to a thread or queue.

The guarantee is *after the commit, at most once*: what a signal reports is in the database, but a process that is killed
in between does not send it. If none may be missed, use the rows or a handler.

``sender`` is ``OutboxMessage`` or ``InboxMessage``. All have these arguments:

``message_id``
    the row's id (int).
``event_id``
    the event's id (str).
``event_type``, ``topic``, ``key``
    as published or received (str). ``event_type`` may be empty for an unreadable record.
``attempt``
    the number of the publication or, in the inbox, of the attempt; counted from 1 (int).
``using``
    alias of the database (str).

There is no payload. To read it: ``sender.objects.using(using).get(id=message_id)``.
"""

from __future__ import annotations

from django.dispatch import Signal

message_published = Signal()
"""The broker acknowledged it. Also ``partition`` and ``offset`` (int, or None if unknown)."""

message_consumed = Signal()
"""Its handlers have run. Also ``group`` (str), the consumer group."""

message_failed = Signal()
"""An attempt failed and was counted. The message will be retried, or is dead; then ``message_dead`` is sent too.

Also ``error`` (the exception, or the relay's text) and ``final`` (bool).
"""

message_dead = Signal()
"""It is dead. Also ``error`` (the exception, or a text)."""
