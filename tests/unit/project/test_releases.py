"""Of each release there is what the tests of upgrades need."""

from __future__ import annotations

import re

import pytest

from tests.support.processes import ROOT
from tests.upgrades.readers import READERS
from tests.upgrades.releases import DATABASES, FOLDER, releases


def released() -> list[str]:
    """The versions of the changelog that are out."""
    headings = re.findall(r"^(\d+\.\d+\.\d+)(.*)\n=+$", (ROOT / "CHANGELOG.rst").read_text(), re.MULTILINE)
    return [version for version, note in headings if "unreleased" not in note]


def test_each_release_is_recorded() -> None:
    assert set(released()) <= set(releases()), "record it: python -m tests.upgrades VERSION"


@pytest.mark.parametrize("release", releases())
def test_a_record_of_a_release_is_complete(release: str) -> None:
    assert {path.name for path in (FOLDER / release).iterdir()} == {*DATABASES.values(), "records.json"}


def test_readers_are_of_releases() -> None:
    assert set(READERS) <= set(releases())
