"""``make mutants``: breaks the package in many ways, one at a time, and shows that a test notices each."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.faults import Fault, load
from tests.mutants.runs import Tree, Verdict

USAGE = 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("words", nargs="*", help="run only faults whose name or file contains one of these")
    parser.add_argument("--jobs", type=int, default=2, help="faults at a time (default: %(default)s)")
    options = parser.parse_args()
    faults = [each for each in load() if not options.words or _matches(each, options.words)]
    if not faults:
        print("No fault matches.", file=sys.stderr)
        return USAGE
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends the tests, too
    began_at = time.monotonic()
    with _trees(options.jobs) as trees, ThreadPoolExecutor(options.jobs) as pool:
        try:
            if not _pass_without_faults(faults, trees, pool):
                return 1
            killed = _run(faults, trees, pool)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for tree in trees:
                tree.close()
            raise
    minutes, seconds = divmod(round(time.monotonic() - began_at), 60)
    print(f"{len(faults)} mutants in {minutes} min {seconds} s")
    print(f"{killed} passed, {len(faults) - killed} failed")
    return 0 if killed == len(faults) else 1


def _matches(fault: Fault, words: Sequence[str]) -> bool:
    return any(word in fault.name or word in fault.path or word in fault.source for word in words)


@contextmanager
def _trees(number: int) -> Iterator[list[Tree]]:
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as directory:
        yield [Tree(Path(directory) / str(each)) for each in range(number)]


def _pass_without_faults(faults: Sequence[Fault], trees: Sequence[Tree], pool: ThreadPoolExecutor) -> bool:
    """Run the tests of all faults on the sources as they are: a test that fails then proves nothing."""
    tests: dict[str, list[str]] = {}
    for fault in faults:
        tests.setdefault(fault.database, []).extend(fault.tests)
    chunks = [
        (database, [*dict.fromkeys(of_database)][start :: len(trees)])
        for database, of_database in tests.items()
        for start in range(len(trees))
    ]
    free = _queue(trees)

    def run(database: str, chosen: Sequence[str]) -> str:
        tree = free.get()
        try:
            result = tree.run_without_fault(chosen, database)
            return "" if result.code == 0 else result.output
        finally:
            free.put(tree)

    print(f"Running {sum(len(chosen) for _, chosen in chunks)} tests or files without a fault.", flush=True)
    errors = [future.result() for future in [pool.submit(run, *chunk) for chunk in chunks if chunk[1]]]
    for error in filter(None, errors):
        print(error)
    if any(errors):
        print("These tests fail without a fault, so they prove nothing.")
    return not any(errors)


def _run(faults: Sequence[Fault], trees: Sequence[Tree], pool: ThreadPoolExecutor) -> int:
    """Run all faults, print a line for each, and return how many were noticed."""
    free = _queue(trees)

    def run(fault: Fault) -> Verdict:
        tree = free.get()
        try:
            return tree.run(fault)
        finally:
            free.put(tree)

    running: dict[Future[Verdict], Fault] = {pool.submit(run, fault): fault for fault in faults}
    killed = 0
    for number, future in enumerate(as_completed(running), 1):
        verdict, fault = future.result(), running[future]
        killed += verdict.is_killed
        text = f"killed by {verdict.reason}" if verdict.is_killed else f"{verdict.reason}  ({fault.path})"
        print(f"[{number:3}/{len(faults)}] {fault.name}: {text}", flush=True)
    return killed


def _queue(trees: Sequence[Tree]) -> SimpleQueue[Tree]:
    free: SimpleQueue[Tree] = SimpleQueue()
    for tree in trees:
        free.put(tree)
    return free


if __name__ == "__main__":
    sys.exit(main())
