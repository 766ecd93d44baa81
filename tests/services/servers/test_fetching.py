"""What tests fetch is in the cache whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.servers import fetching
from tests.support.servers.fetching import fetched


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(fetching, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def test_it_is_fetched_once(cache: Path) -> None:
    calls = []

    def fetch(folder: Path) -> None:
        calls.append(folder)
        (folder / "jar").write_text("1")

    assert [fetched("kafka-1", fetch) for _ in range(2)] == [cache / "kafka-1"] * 2
    assert len(calls) == 1
    assert [path.relative_to(cache) for path in cache.rglob("*")] == [Path("kafka-1"), Path("kafka-1/jar")]


def test_a_failure_leaves_nothing(cache: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "jar").write_text("1")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        fetched("kafka-1", fail)
    assert list(cache.iterdir()) == []


def test_of_two_runs_at_once_the_first_wins(cache: Path) -> None:
    def fetch(folder: Path) -> None:
        fetched("kafka-1", lambda other: (other / "jar").write_text("of the other run") and None)
        (folder / "jar").write_text("of this run")

    assert (fetched("kafka-1", fetch) / "jar").read_text() == "of the other run"
    assert [path.name for path in cache.iterdir()] == ["kafka-1"]
