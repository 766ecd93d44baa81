"""Of each release there is what the tests of upgrades need."""

from __future__ import annotations

import re

import pytest

import django_outbox
from tests.support.processes import ROOT
from tests.upgrades.readers import READERS
from tests.upgrades.releases import DATABASES, FOLDER, migrations, migrations_of, released, releases


def test_the_version_is_the_newest_of_the_changelog() -> None:
    headings = re.findall(r"^(\d+\.\d+\.\d+).*\n=+$", (ROOT / "CHANGELOG.rst").read_text(), re.MULTILINE)
    assert django_outbox.__version__ == headings[0]


def test_migrations_of_a_release_are_as_they_were() -> None:
    for release in released():
        assert migrations_of(release).items() <= migrations().items(), "add a migration instead of changing one"


def test_each_release_is_recorded() -> None:
    assert set(released()) <= set(releases()), "record it: python -m tests.upgrades VERSION"


@pytest.mark.parametrize("release", releases())
def test_a_record_of_a_release_is_complete(release: str) -> None:
    assert {path.name for path in (FOLDER / release).iterdir()} == {
        *DATABASES.values(),
        "records.json",
        "migrations.json",
    }


def test_readers_are_of_releases() -> None:
    assert set(READERS) <= set(releases())
