"""``python -m benchmarks``: start the servers, measure, print a table, write JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.report import Line

PARTS = ("enqueue", "relay", "consume", "concurrency", "latency", "debezium", "scale", "backlog", "purge")


def main() -> int:
    """Measure what the command line asks for; 0 if all worked and every target is met, else 1."""
    options = _options()
    if options.results:
        _show(json.loads(options.results.read_text()), options)
        return 0
    from benchmarks.report import Progress, table, write_json
    from benchmarks.servers import servers

    progress = Progress()
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    load = os.getloadavg()
    cpus = os.cpu_count() or 1
    if load[0] > cpus / 2:
        progress.say(
            f"other work is going on here (load {load[0]:.1f} on {cpus} CPUs): these figures will mean little\n"
        )
    progress.say("starting the servers")
    lines: list[Line] = []
    with servers() as found:
        os.environ["DATABASE_URL"] = found.database
        os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
        django.setup()
        from django.core.management import call_command

        from benchmarks.bench import Bench

        call_command("migrate", run_syncdb=True, verbosity=0)
        bench = Bench(
            found, progress, options.runs, quick=options.quick, rows=options.rows, scale_rows=options.scale_rows
        )
        about = {
            "started": started,
            "load_at_start": load,
            "servers": found.versions,
            "options": {
                "only": options.only,
                "runs": options.runs,
                "quick": options.quick,
                "rows": options.rows,
                "scale_rows": options.scale_rows,
            },
        }
        try:
            for part in options.only:
                lines.extend(_lines(part, bench))
                write_json(lines, bench.jobs, about)  # a run takes long, and may end before its end
        except KeyboardInterrupt:
            progress.say("stopped; what is there so far:\n")
        finally:
            from django.db import connections

            connections.close_all()
    progress.clear()
    where = write_json(lines, bench.jobs, about)
    sys.stdout.write(f"{table(lines)}\n\nMedians. Every single run: {where}\n")
    _show(json.loads(where.read_text()), options)
    return 1 if any(line.met is False or line.missing == "failed" for line in lines) else 0


def _show(results: dict[str, Any], options: argparse.Namespace) -> None:
    """Draw and publish what was measured, as the command line asks."""
    from benchmarks import plot, publish

    try:
        if options.plot:
            options.plot.write_text(plot.draw(results, plot.BACKLOG))
        if options.publish:
            publish.publish(results)
    except ValueError as error:
        sys.exit(f"Nothing was drawn or published: {error}.")


def _lines(part: str, bench: Bench) -> Iterator[Line]:
    """What a part measures; a job that fails ends its part and is told, not the whole run."""
    from benchmarks.checks import WorkNotDone
    from benchmarks.processes import JobFailed
    from benchmarks.report import Line

    try:
        yield from _measurements()[part](bench)
    except Exception as error:  # also a fault of the benchmark itself costs none of the other parts
        reason = error if isinstance(error, JobFailed | WorkNotDone) else traceback.format_exc()
        bench.progress.say(f"{part} failed: {reason}\n")
        yield Line(f"{part}, the rest of it", "", missing="failed")


def _measurements() -> dict[str, Callable[[Bench], Iterator[Line]]]:
    """The parts by name; imported only now, as they need Django."""
    from benchmarks import backlog, concurrency, consume, debezium, enqueue, latency, purge, relay, scale

    return {
        "enqueue": enqueue.measure,
        "relay": relay.measure,
        "consume": consume.measure,
        "concurrency": concurrency.measure,
        "latency": latency.measure,
        "debezium": debezium.measure,
        "scale": scale.measure,
        "backlog": backlog.measure,
        "purge": purge.measure,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the outbox beside raw loops. DATABASE_URL and KAFKA_URL name servers of your own.",
    )
    parser.add_argument(
        "--only", type=_parts, default=list(PARTS), metavar="PART,...", help=f"of {', '.join(PARTS)} (default: all)"
    )
    parser.add_argument("--runs", type=_count, default=None, metavar="N", help="rounds (default: 5; with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, one round: see that it works")
    parser.add_argument("--rows", type=_count, metavar="N", help="messages a measurement, instead of its own number")
    parser.add_argument("--scale-rows", type=_count, metavar="N", help="rows behind, for scale (default: 5,000,000)")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw throughput by backlog size")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="renew the plots in docs/ and, if the backlog was measured, the table of docs/speed.rst and its data",
    )
    parser.add_argument(
        "--results", type=Path, metavar="FILE.json", help="for --plot and --publish: measure nothing, take these"
    )
    options = parser.parse_args()
    options.runs = options.runs or (1 if options.quick else 5)
    return options


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    if unknown := set(parts) - set(PARTS):
        raise argparse.ArgumentTypeError(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return parts


def _count(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
