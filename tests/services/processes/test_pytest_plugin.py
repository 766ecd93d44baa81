"""The pytest plugin in projects of any kind: it disturbs no test that does not use it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

pytestmark = [pytest.mark.databases("sqlite"), pytest.mark.brokers("tansu")]

WITHOUT_DJANGO = """
import sys

def test_nothing_is_imported():
    assert "django_outbox.testing.plugin" in sys.modules
    assert not {"django", "django_outbox.models", "django_outbox.brokers.memory"} & set(sys.modules)
"""
FIXTURE = """
def test_it(outbox):
    outbox.assert_nothing_published()
"""
OWN_FIXTURE = """
import pytest

@pytest.fixture
def outbox():
    return "of the project"

def test_it(outbox):
    assert outbox == "of the project"
"""


RUN_AFTER_IMPORT = "import sys, django_outbox, pytest; sys.exit(pytest.main(sys.argv[1:]))"


def run_pytest(
    folder: Path, text: str, *options: str, runner: tuple[str, ...] = ("-m", "pytest")
) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(text)
    ours = ("DATABASE_URL", "DJANGO_SETTINGS_MODULE")
    clean = {name: value for name, value in os.environ.items() if name not in ours and not name.startswith("PYTEST_")}
    command = [sys.executable, *runner, "-p", "no:cacheprovider", "-W", "error", *options]
    return subprocess.run(
        command,
        cwd=folder,
        env={**clean, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "options", [["-p", "no:django"], ["-p", "no:django", "-n", "1"]], ids=["one process", "pytest-xdist"]
)
def test_a_project_without_django_does_not_notice_it(options: list[str], tmp_path: Path) -> None:
    result = run_pytest(tmp_path, WITHOUT_DJANGO, *options)
    assert result.returncode == 0, result.stdout


def test_a_project_may_have_a_fixture_of_the_same_name(tmp_path: Path) -> None:
    result = run_pytest(tmp_path, OWN_FIXTURE, "-p", "no:django")
    assert result.returncode == 0, result.stdout


def test_without_pytest_django_the_fixture_names_what_is_missing(tmp_path: Path) -> None:
    result = run_pytest(tmp_path, FIXTURE, "-p", "no:django")
    assert result.returncode == 1
    assert "fixture 'db' not found" in result.stdout


def test_pytest_may_be_started_after_the_package_was_imported(tmp_path: Path) -> None:
    # As pip installs it: pytest marks all packages that a distribution with a plugin lists.
    installed = tmp_path / "copy_of_outbox-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: copy-of-outbox\nVersion: 1\n")
    (installed / "entry_points.txt").write_text("[pytest11]\ndjango_outbox = django_outbox.testing.plugin\n")
    (installed / "RECORD").write_text("django_outbox/__init__.py,,\ndjango_outbox/testing/plugin.py,,\n")
    passes = "def test_it():\n    pass\n"
    result = run_pytest(tmp_path, passes, "-p", "no:django", runner=("-c", RUN_AFTER_IMPORT))
    assert result.returncode == 0, result.stdout
