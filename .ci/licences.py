"""Check the licence of every package that users of this one install, with all extras. Reads what is installed.

Fails (exit code 1) if a licence is not allowed, or if a package does not name one that is known here.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import distribution
from typing import Protocol

from audit import PACKAGE, dependencies

EXTRAS = ("confluent", "metrics", "otel", "typed", "avro", "protobuf", "jsonschema", "devbroker")

# Permissive, or copyleft that ends at the package itself: none of them asks anything of a project that imports it.
ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "LGPL-2.1-or-later",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "PSF-2.0",
    "Unlicense",
}

# What packages write that do not use SPDX identifiers yet.
SYNONYMS = {
    "3-Clause BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}


class Metadata(Protocol):
    """The part of a package's metadata that is read."""

    def get_all(self, name: str, failobj: list[str]) -> list[str] | None: ...


def licence_of(metadata: Metadata) -> str:
    """The SPDX expression of a package, or what it says instead; empty if it says nothing.

    An expression comes first. The field License may be a whole text: only a single line counts. Classifiers come last.
    """
    fields = [*(metadata.get_all("License-Expression", []) or []), *(metadata.get_all("License", []) or [])]
    classifiers = metadata.get_all("Classifier", []) or []
    fields += sorted(each for each in classifiers if each.startswith("License :: OSI Approved :: "))
    said = [each for each in fields if each.strip() and "\n" not in each]
    return SYNONYMS.get(said[0], said[0]) if said else ""


def is_allowed(expression: str) -> bool:
    """Whether a licence may be used: one side of OR is enough, AND needs both. With parentheses, all must be allowed."""
    if "(" in expression:
        names = re.split(r"\s+(?:AND|OR)\s+", re.sub(r"[()]", "", expression))
        return all(name.strip() in ALLOWED for name in names)
    sides = [side.split(" AND ") for side in expression.split(" OR ")]
    return any(all(name.strip() in ALLOWED for name in side) for side in sides)


def check(licences: dict[str, str]) -> int:
    """Print the licences by package, and those that are not allowed at the end. Returns the exit code."""
    for name, licence in licences.items():
        print(f"{name}: {licence or 'unknown'}")
    refused = [name for name, licence in licences.items() if not is_allowed(licence)]
    if refused:
        print(f"NOT ALLOWED: {', '.join(refused)}. Replace them, or add their licences to {sys.argv[0]}.")
        return 1
    print(f"All {len(licences)} licences are allowed.")
    return 0


if __name__ == "__main__":
    sys.exit(check({name: licence_of(distribution(name).metadata) for name in dependencies(PACKAGE, EXTRAS)}))
