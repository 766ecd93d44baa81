"""Runs the tests on servers that the tests of each change do not run on: `python -m tests.matrix [NAME ...]`.

A NAME is part of a server's name; without one, all run that are tested with the installed release of Django. What passes
renews its row in the README.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import django

from tests.matrix.combinations import COMBINATIONS, Combination
from tests.matrix.results import Result, read, write
from tests.support.processes import ROOT


def main(names: Sequence[str]) -> int:
    chosen = [each for each in COMBINATIONS if not names or any(name.lower() in each.name.lower() for name in names)]
    if not chosen:
        sys.exit(f"No server is named so; there are {', '.join(each.name for each in COMBINATIONS)}.")
    installed = ".".join(map(str, django.VERSION[:2]))
    for each in chosen:
        if each.django != installed:
            print(f"left out: {each.name} is tested with Django {each.django}, not with {installed}")
    chosen = [each for each in chosen if each.django == installed]
    if not chosen:
        sys.exit("Nothing is tested with this release of Django.")
    failed = []
    for combination in chosen:
        print(f"=== {combination.name}", flush=True)
        result = run(combination)
        if result is None:
            failed.append(combination.name)
        else:
            write({**read(), combination.name: result})
    print(f"failed: {', '.join(failed)}" if failed else "all passed")
    return bool(failed)


def run(combination: Combination) -> Result | None:
    """The result, or None if a test failed."""
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "3", "--dist", "loadgroup"]
    rerun = ["--reruns", "1", "--only-rerun", "not within"]
    process = subprocess.Popen(
        [*pytest, *rerun, *combination.options, *combination.tests], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return None if process.returncode else result_of("".join(lines), combination.reported_as)


def result_of(output: str, reported_as: str) -> Result:
    """What a run of pytest that passed says of itself."""
    version = re.search(rf"^{reported_as}: (.+)$", output, re.MULTILINE)
    with_django = re.search(r"^django: version: ([^,\s]+)", output, re.MULTILINE)
    passed = re.search(r"(\d+) passed", output)
    assert version is not None, output[-2000:]
    assert with_django is not None, output[-2000:]
    assert passed is not None, output[-2000:]
    return Result(version[1], with_django[1], f"{datetime.now(UTC):%Y-%m-%d}", int(passed[1]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
