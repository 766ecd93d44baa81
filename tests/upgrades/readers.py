"""The readers of all releases, each as it was."""

from __future__ import annotations

from types import ModuleType

from tests.upgrades import reader_0_1_0

READERS: dict[str, ModuleType] = {"0.1.0": reader_0_1_0}
"""By the first release that read so."""
