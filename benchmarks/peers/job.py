"""What runs in the virtual environment of a package: writes rows, sends them, and prints how long that took."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module, metadata
from typing import Any

import django

BULK = 500
WARM_UP = 200


def main() -> None:
    """``python -m benchmarks.peers.job MODULE ARGUMENTS``, where the module is one of this folder."""
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    django.setup()
    with redirect_stdout(sys.stderr):  # where commands may print
        result = run(name, **arguments)
    sys.stdout.write(json.dumps({"result": result}) + "\n")


def run(name: str, *, singles: int, many: int, options: list[str]) -> dict[str, Any]:
    """Write ``singles`` rows one per transaction, ``many`` rows 500 per transaction, and send them all."""
    from django.core.management import call_command
    from django.db import transaction

    from benchmarks import tables

    call_command("migrate", verbosity=0)
    peer = import_module(f"benchmarks.peers.{name}")
    table, unsent = peer.MODEL._meta.db_table, peer.MODEL.objects.exclude(peer.SENT)

    def write(numbers: range) -> None:
        for number in numbers:
            with transaction.atomic():
                peer.write(number)

    def write_many(numbers: range) -> None:
        for start in range(0, len(numbers), BULK):
            part = numbers[start : start + BULK]
            with transaction.atomic():
                if hasattr(peer, "write_many"):
                    peer.write_many(part)
                else:
                    for number in part:
                        peer.write(number)

    rows = singles + many
    write_many(range(rows, rows + WARM_UP))
    write(range(rows + WARM_UP, rows + 2 * WARM_UP))
    peer.relay(*options)
    tables.empty(table)
    measured = {
        "write": _measure(lambda: write(range(singles)), singles),
        "write_many": _measure(lambda: write_many(range(singles, rows)), many),
    }
    _check("rows to send", unsent.count(), rows)
    tables.settle(table)
    measured["relay"] = _measure(lambda: peer.relay(*options), rows)
    _check("rows left to send", unsent.count(), 0)
    packages = {each.name: each.version for each in metadata.distributions()}
    return {**measured, "python": platform.python_version(), "packages": packages}


def _measure(work: Callable[[], None], rows: int) -> dict[str, Any]:
    cpu, first = time.process_time(), time.monotonic()
    work()
    seconds, cpu = time.monotonic() - first, time.process_time() - cpu
    return {"rows": rows, "seconds": seconds, "cpu": cpu}


def _check(what: str, found: int, expected: int) -> None:
    if found != expected:
        sys.exit(f"{what}: {found} instead of {expected}")


if __name__ == "__main__":
    main()
