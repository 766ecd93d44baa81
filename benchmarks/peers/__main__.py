"""``python -m benchmarks.peers``: measure each package in turns, print a table, write JSON."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import clients
from benchmarks.checks import WorkNotDone, check, wait_for
from benchmarks.peers.job import BULK, WARM_UP
from benchmarks.peers.report import HEADERS, PEERS, Peer, publish, rows
from benchmarks.peers.stomp import StompServer
from benchmarks.processes import Job, JobFailed
from benchmarks.report import RESULTS, Progress, machine
from benchmarks.servers import Servers, servers, topic
from tests.support.documentation import table
from tests.support.processes import ROOT

FOLDER = Path(__file__).parent
SINGLES = 2_000


def main() -> int:
    """Measure what the command line asks for; 0 if all worked."""
    options = _options()
    results = json.loads(options.results.read_text()) if options.results else _measure(options)
    sys.stdout.write(f"{table(rows(results))}\n")
    if options.publish:
        try:
            publish(results)
        except ValueError as error:
            sys.exit(f"Nothing was published: {error}.")
    return 1 if any(peer["failures"] for peer in results["peers"]) else 0


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    progress, runs = Progress(), 1 if options.quick else options.runs
    pythons = {}
    for module in {peer.module: None for peer in PEERS}:
        progress.say(f"virtual environment: {module}")
        pythons[module] = _python(module, options.python)
    started, load = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), os.getloadavg()
    found: list[dict[str, Any]] = [{"name": peer.name, "rounds": [], "failures": []} for peer in PEERS]
    pairs = list(zip(PEERS, found, strict=True))
    with servers() as where:
        for number in range(runs):
            first = number % len(pairs)  # each round begins with another package
            for peer, kept in pairs[first:] + pairs[:first]:
                progress.say(f"{peer.name}, round {number + 1} of {runs}")
                singles, many = (100, BULK) if options.quick else (SINGLES, peer.many)
                try:
                    kept["rounds"].append(_run(peer, pythons[peer.module], where, singles, many))
                except (JobFailed, WorkNotDone) as error:
                    progress.say(f"{peer.name} failed: {error}\n")
                    kept["failures"].append(str(error))
    progress.clear()
    results = {
        "started": started,
        "load_at_start": load,
        "machine": machine(),
        "servers": where.versions,
        "options": {"runs": runs, "quick": options.quick},
        "peers": found,
    }
    path = RESULTS.with_name("peers.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    return results


def _python(module: str, python: str) -> Path:
    """The interpreter of a package's virtual environment, made anew if its requirements have changed."""
    folder = ROOT / ".cache" / "peers" / module
    own = folder / "bin" / "python"
    requirements = FOLDER / f"requirements-{module}.txt"
    wanted = requirements.read_text() + (FOLDER / "requirements-common.txt").read_text()
    installed = folder / "installed.txt"
    if not installed.exists() or installed.read_text() != wanted:
        subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([own, "-m", "pip", "install", "--quiet", "--no-deps", "-r", requirements], check=True)
        installed.write_text(wanted)
    return own


def _run(peer: Peer, python: Path, where: Servers, singles: int, many: int) -> dict[str, Any]:
    """One round of a package.

    Raises:
        JobFailed: not every row is marked as sent.
        WorkNotDone: not every message reached the broker.
    """
    sent = singles + many + 2 * WARM_UP
    with StompServer() as stomp, topic(where.near) as name:
        environment = {
            "DATABASE_URL": where.database,
            "DJANGO_SETTINGS_MODULE": "benchmarks.peers.settings",
            "KAFKA_URL": where.near,
            "PEER": peer.module,
            "PEER_BACKEND": peer.backend,
            "PEER_STOMP_PORT": str(stomp.port),
            "PEER_TOPIC": name,
        }
        arguments = {"singles": singles, "many": many, "options": peer.options}
        with Job(peer.module, environment, python=python, module="benchmarks.peers.job", **arguments) as job:
            result = job.result()
        if header := HEADERS.get(peer.module):
            check("readable messages", clients.distinct_messages(where.near, name, sent, header=header), sent)
        else:
            wait_for(lambda: len(stomp.ids), sent, "messages by STOMP")
    return result


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description="Measure other packages with an outbox, and this one."
    )
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="rounds (default: 3)")
    parser.add_argument("--quick", action="store_true", help="one round, few rows: see that it works")
    parser.add_argument(
        "--python",
        default="python3.13",
        help="the Python of the virtual environments, 3.12 or later (default: python3.13)",
    )
    parser.add_argument("--publish", action="store_true", help="renew the table of docs/comparison.rst")
    parser.add_argument("--results", type=Path, metavar="FILE.json", help="measure nothing, take these results")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
