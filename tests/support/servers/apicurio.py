"""A schema registry: Apicurio in memory, which also speaks the API of Confluent's registry."""

from __future__ import annotations

import http.client
import os
import shutil
import tarfile
import uuid
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.support.servers.apache_kafka import CACHE, find_program
from tests.support.servers.base import Service

VERSION = "2.6.13.Final"  # the last line that runs with Java 17
ARTIFACT = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"


class Apicurio(Service):
    """Its schemas are gone after `stop()`."""

    name = "apicurio"
    start_timeout = 90.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/apis/ccompat/v7"

    def prepare(self) -> None:
        """Copy the server from Maven's repository, once."""
        if self._home.exists():
            return
        maven = find_program("mvn", "maven")
        partial = self.directory / "download"
        self.run(
            [maven, "-q", "-B", "dependency:copy", f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={partial}"],
            cwd=self.directory,
        )
        CACHE.mkdir(exist_ok=True)
        # Whole or not at all under the final name, also where two runs fetch at once or one is interrupted.
        staged = CACHE / f"{self._home.name}-{uuid.uuid4().hex}"
        (archive,) = partial.iterdir()
        with tarfile.open(archive) as tar:
            tar.extractall(staged, filter="data")
        try:
            staged.rename(self._home)
        except OSError:
            shutil.rmtree(staged)

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

    @property
    def _home(self) -> Path:
        return CACHE / f"apicurio-{VERSION}"
