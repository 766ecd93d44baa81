"""End the demo's processes when the demo itself was killed and could not.

Runs beside the demo in a session of its own. Each line that it reads is a process group that has
started ("+123") or ended ("-123"). The end of the input means that the demo is gone, whatever the
reason; the groups that are left then are ended.
"""

import os
import signal
import sys
import time

GRACE_SECONDS = 5.0


def main() -> None:
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        if line[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    end_groups(groups)


def end_groups(groups: set[int], grace_seconds: float = GRACE_SECONDS) -> None:
    """Ask the groups to end; kill what is left of them after the grace period."""
    deadline = time.monotonic() + grace_seconds
    left = {group for group in groups if signal_group(group, signal.SIGTERM)}
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = {group for group in left if signal_group(group, 0)}
    for group in left:
        signal_group(group, signal.SIGKILL)


def signal_group(group: int, signum: int) -> bool:
    """Send a signal (0 sends none); whether the group has any process that could get it."""
    try:
        os.killpg(group, signum)
    except (ProcessLookupError, PermissionError):  # macOS says the latter if only zombies are left
        return False
    return True


if __name__ == "__main__":
    main()
