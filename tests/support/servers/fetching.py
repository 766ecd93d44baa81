"""Server software from Maven's central repository, fetched once into `.cache`."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.support.servers.base import ServiceError

CACHE = Path(__file__).parents[3] / ".cache"


def find_program(program: str, package: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise ServiceError(
            f"{program} is not installed: Apache Kafka needs Java 17 or later, and Maven to fetch its jars "
            f"(Debian, Ubuntu: apt-get install {package}; macOS: brew install openjdk maven), "
            "or name a running broker with --kafka-url."
        )
    return found


def fetched(name: str, fetch: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache. `fetch` fills it, if it is not there yet."""
    folder = CACHE / name
    if folder.exists():
        return folder
    CACHE.mkdir(exist_ok=True)
    # Whole or not at all under the final name, also where two runs fetch at once or one is interrupted.
    staged = CACHE / f"{name}-{uuid.uuid4().hex}"
    staged.mkdir()
    try:
        fetch(staged)
        try:
            staged.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return folder


def jars_of(pom: Path, name: str, *options: str) -> Path:
    """The folder `name` of the cache, with the jars that a `pom.xml` depends on, and all that these need."""
    return fetched(
        name,
        lambda folder: maven("-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={folder}", *options),
    )


def unpack_jar(artifact: str, folder: Path) -> None:
    """Fetch one artifact, such as `group:name:version`, and unpack it."""
    with tempfile.TemporaryDirectory() as download:
        maven("dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={download}")
        (jar,) = Path(download).iterdir()
        with zipfile.ZipFile(jar) as archive:
            archive.extractall(folder)


def maven(*arguments: str) -> None:
    """Run Maven.

    Raises:
        ServiceError: it is missing or failed, with what it printed.
    """
    command = [find_program("mvn", "maven"), "-q", "-B", *arguments]
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240
        )
    if done.returncode:
        raise ServiceError(f"mvn failed ({done.returncode}):\n{done.stdout}")


def version_in(pom: Path, artifact: str) -> str:
    """The version of a dependency of a `pom.xml`, which may be a property of the dependency's name."""
    name = re.escape(artifact)
    pattern = rf"<{name}>(.+?)</{name}>|<artifactId>{name}</artifactId>\s*<version>([^$]+?)</version>"
    found = re.search(pattern, pom.read_text())
    assert found is not None
    return found[1] or found[2]
