"""Server software that Debian has only in its unstable release: fetched into `.cache` with all libraries, never installed."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.servers.base import ServiceError
from tests.support.servers.fetching import fetched

SUITE = "sid"
LIBRARIES = Path("usr/lib/x86_64-linux-gnu")


def unpacked(package: str) -> Path:
    """The root of a file system in the cache, with a package of Debian unstable and all that it needs.

    The cache keeps the version that was the newest when it was fetched, until its folder is removed.

    Raises:
        ServiceError: this machine is not x86_64, or this system has no apt, or it failed.
    """
    if platform.machine() != "x86_64":
        raise ServiceError(f"{package} is fetched for x86_64 only, and this machine is {platform.machine()}")
    if shutil.which("apt-get") is None:
        raise ServiceError(f"{package} is fetched with apt-get, which this system does not have")
    return fetched(f"debian-{package}", lambda folder: _fetch(package, folder))


def command(root: Path, program: str) -> list[str | Path]:
    """How a program of the root is run: with the libraries that are there, since those of the system may be older."""
    libraries = root / LIBRARIES
    return [libraries / "ld-linux-x86-64.so.2", "--library-path", libraries, root / program]


def _fetch(package: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        apt = _Apt(Path(directory))
        for archive in apt.download(package):
            apt.run("dpkg-deb", "--extract", archive, folder)


class _Apt:
    """apt with lists and configuration of its own; that of the system is only read."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._config = directory / "apt.conf"
        for name in ("lists/partial", "cache/archives/partial", "packages"):
            (directory / name).mkdir(parents=True)
        sources = directory / "sources.list"
        sources.write_text(f"deb {self._mirror()} {SUITE} main\n")
        options = {
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "-",
            "Dir::State::Lists": directory / "lists",
            "Dir::Cache": directory / "cache",
            "APT::Sandbox::User": "root",
        }
        self._config.write_text("".join(f'{name} "{value}";\n' for name, value in options.items()))

    def download(self, package: str) -> list[Path]:
        self.run("apt-get", "update", "-qq")
        unwanted = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
        options = [f"--no-{kind}" for kind in unwanted]
        tree = self.run("apt-cache", "depends", "--recurse", *options, package)
        names = {line for line in tree.splitlines() if line[:1].isalnum()}
        self.run("apt-get", "download", "-qq", *sorted(names))
        return sorted((self._directory / "packages").glob("*.deb"))

    def run(self, *command: str | Path) -> str:
        done = subprocess.run(
            list(map(str, command)),
            cwd=self._directory / "packages",
            env={**os.environ, "APT_CONFIG": str(self._config), "LC_ALL": "C"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        if done.returncode:
            raise ServiceError(f"{command[0]} failed ({done.returncode}):\n{done.stdout}")
        return done.stdout

    def _mirror(self) -> str:
        """The mirror that the system uses itself."""
        command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        for uri in done.stdout.split():
            if uri.rstrip("/").endswith("/debian"):
                return uri
        raise ServiceError("apt knows no mirror of Debian")
