"""The named faults in ``tests/mutants/faults/``, one file for each guarantee or part of one."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PACKAGE = "django_outbox"
DIRECTORY = Path(__file__).parent / "faults"


@dataclass(frozen=True)
class Fault:
    """A change of one place in the package that breaks a guarantee.

    Attributes:
        name: what is wrong with it.
        guarantee: the section of ``docs/guarantees.rst``.
        source: the file in ``tests/mutants/faults/`` that describes it.
        file: the file to change, relative to the package.
        old: its text there, which occurs exactly once.
        new: the text in its place.
        tests: node ids or files, one of which must fail.
        database: the database of the tests, as in ``--database``.
        raises: the error that ends the test in place of a failed assertion; empty for none.
        hangs: whether the tests do not end.
    """

    name: str
    guarantee: str
    source: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    database: str = "sqlite"
    raises: str = ""
    hangs: bool = False

    @property
    def path(self) -> str:
        """The file to change, relative to the repository."""
        return f"{PACKAGE}/{self.file}"

    def apply(self, text: str) -> str:
        """Return the text of the file with the fault.

        Raises:
            ValueError: the old text does not occur exactly once.
        """
        if (found := text.count(self.old)) != 1:
            raise ValueError(f"renew {self.name!r} in {self.source}: its old text occurs {found} times in {self.path}")
        return text.replace(self.old, self.new)


def load() -> list[Fault]:
    """All faults, in the order of the files."""
    return [fault for path in sorted(DIRECTORY.glob("*.toml")) for fault in _read(path)]


def _read(path: Path) -> list[Fault]:
    document = tomllib.loads(path.read_text())
    source = str(path.relative_to(ROOT))
    return [
        Fault(
            **{name: value for name, value in entry.items() if name != "tests"},
            tests=tuple(entry["tests"]),
            guarantee=document["guarantee"],
            source=source,
        )
        for entry in document["fault"]
    ]
