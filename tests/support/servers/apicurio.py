"""A schema registry: Apicurio in memory, which also speaks the API of Confluent's registry."""

from __future__ import annotations

import http.client
import os
import tarfile
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.support.servers.base import Service
from tests.support.servers.fetching import fetched, find_program, maven

VERSION = "2.6.13.Final"  # the last line that runs with Java 17
ARTIFACT = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"


class Apicurio(Service):
    """Its schemas are gone after `stop()`."""

    name = "apicurio"
    start_timeout = 90.0

    def __init__(self) -> None:
        super().__init__()
        self._home = Path()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/apis/ccompat/v7"

    def prepare(self) -> None:
        self._home = fetched(f"apicurio-{VERSION}", _fetch)

    def command(self) -> list[str | Path]:
        options = ["-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        jar = self._home / f"apicurio-registry-app-{VERSION}-runner.jar"
        return [find_program("java", "default-jre-headless"), *options, "-jar", jar]

    def spawn_options(self) -> Mapping[str, Any]:
        address = {"QUARKUS_HTTP_HOST": "127.0.0.1", "QUARKUS_HTTP_PORT": str(self.port)}
        return {"env": {**os.environ, **address}}

    def probe(self) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)) as connection:
            connection.request("GET", "/apis/ccompat/v7/subjects")
            assert connection.getresponse().status == 200

    def version(self) -> str:
        return f"Apicurio Registry {VERSION}"


def _fetch(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as download:
        maven("dependency:copy", f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={download}")
        (archive,) = Path(download).iterdir()
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
