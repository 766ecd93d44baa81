"""Signals for those who alert by code: what became of a message, sent once that is committed.

Each is sent by ``send_robust``: a receiver that raises is logged by Django and harms nothing. It runs in the
relay's or consumer's own loop, so what takes long belongs into a thread or queue of its own.

The guarantee is *after the commit, at most once*: what a signal says is in the database, and a process
that is killed between the two does not send it. Where each one counts, use the rows or a handler.

``sender`` is ``OutboxMessage`` or ``InboxMessage``. All have these arguments:

``message_id``: the row's id (int).
``event_id``: identity of the event (str).
``event_type``, ``topic``, ``key``: as they were published or received (str). Of a record that could not be
read, ``event_type`` may be empty.
``attempt``: how many times it has been published or, from the inbox, tried; counted from 1 (int).
``using``: alias of the database (str).

There is no payload: who needs it reads the row, ``sender.objects.using(using).get(id=message_id)``.
"""

from __future__ import annotations

from django.dispatch import Signal

message_published = Signal()
"""The broker has it. Also ``partition`` and ``offset`` (int, or None where the broker does not tell)."""

message_consumed = Signal()
"""Its handlers have run. Also ``group`` (str), the consumer group."""

message_failed = Signal()
"""A try failed and counts; it is tried again, or dead if that was the last, which ``message_dead`` says too.

Also ``error`` (the exception, or the relay's text) and ``final`` (bool).
"""

message_dead = Signal()
"""It is given up, by relay or consumer. Also ``error`` (the exception, or a text)."""
