"""What a chaos run needs before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.fleet import has_old_package
from tests.chaos.run import AlreadyRunning, alone


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "chaos"
    with alone(folder), pytest.raises(AlreadyRunning, match=str(folder.with_suffix(".lock"))), alone(folder):
        pass
    with alone(folder):
        pass


@pytest.mark.parametrize("revision", ["", "no-such-revision"])
def test_a_revision_without_a_package_is_no_old_release(revision: str) -> None:
    assert not has_old_package(revision)
