"""Tansu, the broker of ``outbox_devbroker``: how to leave one of its groups.

If the leader of a group leaves during a rebalance, Tansu (0.6) never chooses another one, and the group never gets
partitions again. So a member leaves only while its group is stable. If its process ends before that, Tansu drops the
member when its session expires.
"""

from __future__ import annotations

import time
from collections.abc import Callable

CLUSTER_ID = "tansu_cluster"  # its default
SETTLE_SECONDS = 30.0
IDLE_SECONDS = 10.0
"""After this a member that leads its group and has no partitions joins again with another client.

A leader that joined while its topic did not exist, as after a restart of Tansu, rebalances once the topic is there. Tansu
then answers with the empty assignment of before.
"""


def is_tansu(cluster_id: str | None) -> bool:
    return cluster_id == CLUSTER_ID


def settle(can_leave: Callable[[], bool], go_on: Callable[[], object]) -> bool:
    """Go on with a rebalance until the group is stable; False if it still is not after half a minute.

    Args:
        can_leave: whether the group is stable.
        go_on: polls the client for a moment. Records that it reads are not committed, so another member reads them.
    """
    deadline = time.monotonic() + SETTLE_SECONDS
    while not can_leave():
        if time.monotonic() >= deadline:
            return False
        go_on()
    return True
