"""The samples of docs/other-languages.rst as processes, and what they need, fetched once into `.cache`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tests.support.examples import example_of_page
from tests.support.processes import Program
from tests.support.servers.fetching import fetched, find_program, jars_of

PAGE = "docs/other-languages.rst"
MODULES = Path(__file__).with_name("package.json")
POM = Path(__file__).with_name("pom.xml")


@dataclass(frozen=True)
class Sample:
    """A program of the page."""

    file: str
    command: Callable[[Path], list[object]]
    """What runs it; called with its folder, which has the file."""

    def start(self, folder: Path, *arguments: object) -> Program:
        (folder / self.file).write_text(example_of_page(PAGE, self.file))
        return Program(self.file, [*self.command(folder), self.file, *arguments], cwd=folder)


def _python(folder: Path) -> list[object]:
    return [sys.executable]


def _node(folder: Path) -> list[object]:
    modules = fetched(f"node-samples-{_digest_of(MODULES)}", _install) / "node_modules"
    if not (folder / modules.name).exists():
        (folder / modules.name).symlink_to(modules)
    return [modules / "node" / "bin" / "node"]


def _java(folder: Path) -> list[object]:
    jars = jars_of(POM, f"java-samples-{_digest_of(POM)}")
    # As for servers: leave the machine to the tests.
    options = ["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    return [find_program("java", "default-jre-headless"), *options, "-cp", f"{jars}/*"]


def _install(folder: Path) -> None:
    npm = shutil.which("npm")
    assert npm is not None, "npm is not installed; it fetches what the samples for Node need"
    shutil.copy(MODULES, folder)
    command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel", "error"]
    done = subprocess.run(
        command, cwd=folder, timeout=240, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def _digest_of(manifest: Path) -> str:
    return sha256(manifest.read_bytes()).hexdigest()[:12]


READERS = [Sample("stock.py", _python), Sample("stock.mjs", _node), Sample("Stock.java", _java)]
SENDER = Sample("send.mjs", _node)
