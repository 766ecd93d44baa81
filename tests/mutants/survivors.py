"""Lists what mutmut changed without any notice, after ``mutmut run``, except for what ``survivors.toml`` explains.

The wording of texts is left out, too: tests look for the words that matter in them, not for each letter. ``--names`` prints
the names of the rest, for another ``mutmut run``, such as with another database.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path
from typing import NamedTuple

from tests.mutants.faults import PACKAGE, ROOT

EXPLAINED = Path(__file__).with_suffix(".toml")
SURVIVED, NO_TESTS = 0, 33
"""Exit codes that mutmut keeps; None is for what has not been tried."""
_NUMBER = re.compile(r"__mutmut_(orig|\d+)")
_TEXT = re.compile(r'"[^"]*"')


class Survivor(NamedTuple):
    """A change that nothing has noticed; ``old`` and ``new`` are its lines, without indentation."""

    name: str
    file: str
    function: str
    old: str
    new: str

    @property
    def is_wording(self) -> bool:
        """True if only the case of sentences differs, or that mutmut has marked them with ``XX``."""
        texts, changed = _TEXT.findall(self.old), _TEXT.findall(self.new)
        if _TEXT.sub("", self.old) != _TEXT.sub("", self.new) or len(texts) != len(changed):
            return False
        differing = [(text, other) for text, other in zip(texts, changed, strict=True) if text != other]
        return all(" " in text and _plain(text) == _plain(other) for text, other in differing)


class Explanation(NamedTuple):
    """Why no test can notice changes of a line, or need not.

    Attributes:
        file: relative to the package.
        old: the line, or lines, without indentation.
        new: what may be in its place; empty for anything.
        why: in a sentence.
        function: where; empty for any place in the file.
    """

    file: str
    old: str
    new: tuple[str, ...]
    why: str
    function: str = ""

    def covers(self, survivor: Survivor) -> bool:
        same = (self.file, self.old) == (survivor.file, survivor.old)
        return same and self.function in ("", survivor.function) and (not self.new or survivor.new in self.new)


def main() -> int:
    explanations = load()
    alive = [each for each in _survivors(ROOT / "mutants" / PACKAGE) if not each.is_wording]
    left = [each for each in alive if not any(explanation.covers(each) for explanation in explanations)]
    if "--names" in sys.argv:
        print(*[survivor.name for survivor in left], sep="\n")
        return 0
    for survivor in left:
        print(f"{survivor.file}, {survivor.function}")
        for sign, text in (("-", survivor.old), ("+", survivor.new)):
            for line in text.splitlines():
                print(f"    {sign} {line}")
    untried = sum(code is None for _, codes in _results(ROOT / "mutants" / PACKAGE) for code in codes.values())
    print(f"{len(alive)} changes survived, {len(left)} of them without an explanation; {untried} were not tried.")
    return 1 if left else 0


def load() -> list[Explanation]:
    """All explanations."""
    entries = tomllib.loads(EXPLAINED.read_text())["survivor"]
    return [
        Explanation(**{**each, "old": each["old"].strip(), "new": tuple(map(str.strip, each.get("new", [])))})
        for each in entries
    ]


def _results(directory: Path) -> Iterator[tuple[Path, dict[str, int | None]]]:
    for path in sorted(directory.rglob("*.meta")):
        yield path.with_suffix(""), json.loads(path.read_text())["exit_code_by_key"]


def _survivors(directory: Path) -> Iterator[Survivor]:
    for path, codes in _results(directory):
        found = {name: name.rpartition(".")[2] for name, code in codes.items() if code in (SURVIVED, NO_TESTS)}
        if not found:
            continue
        lines = path.read_text().splitlines()
        spans = json.loads(path.with_name(f"{path.name}.spans").read_text())["spans"]
        for mutant, name in found.items():
            function = name.rpartition("__mutmut_")[0]
            bodies = [lines[start - 1 : end] for start, end in (spans[f"{function}__mutmut_orig"], spans[name])]
            original, changed = ([_NUMBER.sub("", line) for line in body] for body in bodies)
            shown = function.removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")  # a class is between two of them
            yield Survivor(mutant, str(path.relative_to(directory)), shown, *_change(original, changed))


def _plain(text: str) -> str:
    return text.replace("XX", "").casefold()


def _change(original: list[str], changed: list[str]) -> tuple[str, str]:
    diff = [line for line in unified_diff(original, changed, n=0, lineterm="") if not line.startswith(("---", "+++"))]
    old, new = (
        "\n".join(line[1:].strip() for line in diff if line.startswith(sign) and line[1:].strip()) for sign in "-+"
    )
    return old, new


if __name__ == "__main__":
    sys.exit(main())
