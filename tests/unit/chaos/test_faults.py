"""Faults of a chaos run that ends early."""

from __future__ import annotations

import time
from unittest.mock import Mock

from tests.chaos.brokers import Brokers
from tests.chaos.database import Database
from tests.chaos.faults import Faults
from tests.chaos.fleet import Fleet
from tests.chaos.plan import Planned
from tests.support.brokers.proxy import Proxy
from tests.support.processes import wait_until


def test_a_run_that_ends_early_heals_and_causes_no_more() -> None:
    link = Mock(spec=Proxy)
    database = Mock(spec=Database, link=link)
    faults = Faults(database, Mock(spec=Brokers), Mock(spec=Fleet), Mock(), Mock(), time.monotonic())
    faults.cause([Planned(0, "stall", "database", 3600)])
    wait_until(lambda: link.stall.called)
    faults.cause([Planned(0, "cut", "database")])  # waits until the first is over
    faults.close()
    assert link.heal.called
    assert not link.cut.called
    assert faults.errors == []
