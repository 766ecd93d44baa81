"""End the demo's processes if the demo itself is killed.

Runs next to the demo in its own session. Each line that it reads is a process group that has started ("+123") or ended
("-123"). The end of the input means that the demo is gone; then the remaining groups are ended.
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
    """Terminate the groups; kill those that remain after the grace period."""
    deadline = time.monotonic() + grace_seconds
    left = {group for group in groups if signal_group(group, signal.SIGTERM)}
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = {group for group in left if signal_group(group, 0)}
    for group in left:
        signal_group(group, signal.SIGKILL)


def signal_group(group: int, signum: int) -> bool:
    """Send a signal (0 sends none); returns whether the group still has a process."""
    try:
        os.killpg(group, signum)
    except (ProcessLookupError, PermissionError):  # macOS raises the latter if only zombies are left
        return False
    return True


if __name__ == "__main__":
    main()
