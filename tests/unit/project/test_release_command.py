"""``make release``: it releases what is ready, exactly once, and refuses everything else without changing anything."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

SCRIPT = ROOT / ".ci" / "release.py"
MIGRATION = "django_outbox/migrations/0001_initial.py"
RECORD = "tests/upgrades/releases/1.2.0/migrations.json"
CHANGELOG = """=========
Changelog
=========

1.2.0 (unreleased)
==================

* ``publish()`` is faster.

1.1.0 (2026-01-01)
==================

* Something else.
"""


class Clone:
    """A small clone of a project that is ready for the release of 1.2.0."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("CHANGELOG.rst", CHANGELOG)
        self.write("README.rst", "A package.\n")
        self.write("django_outbox/__init__.py", '"""A package."""\n\n__version__ = "1.2.0"\n')
        self.write(MIGRATION, "operations = []\n")
        self.write(RECORD, json.dumps({"0001_initial.py": hashlib.sha256(b"operations = []\n").hexdigest()}))
        self.git("init", "--quiet", "--initial-branch", "main")
        self.commit()

    def write(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()

    def git(self, *arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "Change something")

    def release(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SCRIPT), *arguments]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True)

    def state(self) -> tuple[str, str, str]:
        return self.git("rev-parse", "HEAD"), self.git("status", "--porcelain"), self.git("tag", "--list")


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{name}_NAME", "Someone")
        monkeypatch.setenv(f"{name}_EMAIL", "someone@example.com")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    return Clone(tmp_path)


def test_a_release_is_dated_committed_and_tagged_and_the_push_is_left_to_the_caller(clone: Clone) -> None:
    done = clone.release("1.2.0")
    assert done.returncode == 0, done.stderr
    assert "git push --atomic origin main v1.2.0" in done.stdout
    assert re.search(r"^1\.2\.0 \(\d{4}-\d\d-\d\d\)\n={18}\n\n\* ``publish", clone.read("CHANGELOG.rst"), re.MULTILINE)
    assert clone.git("status", "--porcelain") == ""
    assert clone.git("log", "-1", "--format=%s") == "Release 1.2.0"
    assert clone.git("cat-file", "-t", "v1.2.0") == "tag", "annotated"
    assert clone.git("rev-parse", "v1.2.0^{commit}") == clone.git("rev-parse", "HEAD")


def test_a_dry_run_changes_nothing(clone: Clone) -> None:
    before = clone.state()
    done = clone.release("1.2.0", "--dry-run")
    assert (done.returncode, done.stdout) == (0, "1.2.0 is ready. Nothing was changed.\n")
    assert clone.state() == before


def test_a_release_that_ended_before_its_tag_is_finished_by_another_run(clone: Clone) -> None:
    clone.release("1.2.0")
    clone.git("tag", "--delete", "v1.2.0")
    committed = clone.git("rev-parse", "HEAD")
    assert clone.release("1.2.0").returncode == 0
    assert clone.git("rev-parse", "v1.2.0^{commit}") == committed


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("django_outbox/__init__.py", '"""A package."""\n\n__version__ = "1.1.0"\n', "__version__ in .* is not 1.2.0"),
        ("CHANGELOG.rst", CHANGELOG.replace("1.2.0", "1.3.0"), "the newest version of CHANGELOG.rst is 1.3.0"),
        ("CHANGELOG.rst", CHANGELOG.replace("unreleased", "soonishly!"), 'must have "unreleased" or a date'),
        (
            "README.rst",
            "Until the first\n   release, install from a clone.\n",
            "README.rst tells users what to do until",
        ),
        (MIGRATION, "operations = [1]\n", "migrations have changed since 1.2.0 was recorded"),
    ],
)
def test_what_is_not_ready_is_refused(clone: Clone, name: str, text: str, problem: str) -> None:
    clone.write(name, text)
    clone.commit()
    refused(clone, problem)


def refused(clone: Clone, problem: str) -> None:
    before = clone.state()
    for arguments in (["1.2.0", "--dry-run"], ["1.2.0"]):
        done = clone.release(*arguments)
        assert done.returncode == 1
        assert re.search(rf"- .*{problem}", done.stderr), done.stderr
        assert done.stderr.count("\n- ") == 1, "and nothing else"
    assert clone.state() == before


def test_a_release_without_a_record_is_refused(clone: Clone) -> None:
    (clone.folder / RECORD).unlink()
    clone.commit()
    refused(clone, "run python -m tests.upgrades 1.2.0")


def test_changes_that_are_not_committed_are_refused(clone: Clone) -> None:
    clone.write("forgotten.py", "")
    refused(clone, "the tree has changes that are not committed")


def test_another_branch_is_refused(clone: Clone) -> None:
    clone.git("switch", "--quiet", "--create", "feature")
    refused(clone, "the branch is feature, not main")


def test_a_version_is_released_once(clone: Clone) -> None:
    clone.git("tag", "v1.2.0")
    refused(clone, "the tag v1.2.0 exists already")


@pytest.mark.parametrize("version", ["v1.2.0", "1.2", "1.2.0rc1", "-x"])
def test_a_version_is_three_numbers(clone: Clone, version: str) -> None:
    before = clone.state()
    assert clone.release(version).returncode == 2
    assert clone.state() == before


def test_the_notes_of_a_release_are_its_section_of_the_changelog(clone: Clone) -> None:
    assert clone.release("1.1.0", "--notes").stdout == "* Something else.\n"
    done = clone.release("1.2.0", "--notes")
    assert (done.returncode, done.stdout) == (1, "")
    assert "1.2.0 is not released" in done.stderr
