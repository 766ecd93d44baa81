"""A process beside the test run that clears up when the run dies without doing so.

It reads one JSON list per line from standard input, whose other end only the test run holds:
`["group", pgid, signal]` and `["directory", path]` register what must not outlive the run,
`["forget", pgid or path]` takes it off again. End of file means that the run is gone, however it went
(SIGKILL included), and whatever is still registered goes with it.

Runs as a script on the standard library alone, on Linux and macOS.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import time

GRACE = 5.0


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS says so of a group that has only zombies left
        return False
    return True


def clear(groups: dict[int, int], directories: list[str]) -> None:
    """Stop every group, by force after a grace period, then remove the directories."""
    for group, number in groups.items():
        with contextlib.suppress(OSError):
            os.killpg(group, number)
    deadline = time.monotonic() + GRACE
    while any(map(alive, groups)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for group in groups:
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    # Ctrl-C and a closing terminal reach the whole foreground group: outlive them, end of file is the only cue.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    groups: dict[int, int] = {}
    directories: list[str] = []
    for line in sys.stdin:
        match json.loads(line):
            case ["group", int(group), int(number)]:
                groups[group] = number
            case ["directory", str(path)]:
                directories.append(path)
            case ["forget", int(group)]:
                groups.pop(group, None)
            case ["forget", str(path)]:
                directories.remove(path)
    clear(groups, directories)


if __name__ == "__main__":
    main()
