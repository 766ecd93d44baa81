"""The helpers as methods: of pytest's fixture ``outbox``, and of test cases."""

from __future__ import annotations

import unittest

from django_outbox.brokers.memory import MemoryBroker
from django_outbox.testing.capturing import assert_nothing_published, assert_published, captured_messages
from django_outbox.testing.delivering import deliver
from django_outbox.testing.draining import drain
from django_outbox.testing.failing import fail_once


class Outbox:
    """The type of the fixture ``outbox``. Its methods are the functions of this package."""

    captured_messages = staticmethod(captured_messages)
    assert_published = staticmethod(assert_published)
    assert_nothing_published = staticmethod(assert_nothing_published)
    drain = staticmethod(drain)
    deliver = staticmethod(deliver)
    fail_once = staticmethod(fail_once)


class OutboxTestMixin(Outbox, unittest.TestCase):
    """For a ``TestCase`` or ``TransactionTestCase`` of Django: the helpers as methods, and an empty memory broker."""

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        MemoryBroker.clear()
        return super().run(result)

    def debug(self) -> None:  # in place of run(), with manage.py test --pdb
        MemoryBroker.clear()
        super().debug()
