"""Kafka Connect with Debezium's connector for PostgreSQL: one distributed worker from the jars of Maven's repository."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.support.servers.base import Service, ServiceError
from tests.support.servers.fetching import find_program, jars_of, version_in

POM = Path(__file__).with_name("connect") / "pom.xml"
DEBEZIUM = version_in(POM, "debezium-connector-postgres")


class KafkaConnect(Service):
    """A worker on a running Kafka, which keeps connectors and offsets: both survive `kill()` and `start()`."""

    name = "connect"
    start_timeout = 120.0

    def __init__(self, kafka: str, *, env: Mapping[str, str] | None = None) -> None:
        """
        Args:
            kafka: bootstrap servers.
            env: variables that connectors may name as `${env:NAME}`.
        """
        super().__init__()
        self._kafka = kafka
        self._env = dict(env or {})
        self._jars = Path()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def prepare(self) -> None:
        self._jars = jars_of(POM, f"connect-{version_in(POM, 'connect-runtime')}-debezium-{DEBEZIUM}")

    def command(self) -> list[str | Path]:
        properties = self.directory / "worker.properties"
        properties.write_text("".join(f"{key}={value}\n" for key, value in self._settings().items()))
        options = ["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dlog4j2.level=WARN"]
        main = "org.apache.kafka.connect.cli.ConnectDistributed"
        return [find_program("java", "default-jre-headless"), *options, "-cp", f"{self._jars}/*", main, properties]

    def spawn_options(self) -> Mapping[str, Any]:
        return {"env": {**os.environ, **self._env}}

    def probe(self) -> None:
        self.request("GET", "/connectors")  # answers once the worker has joined its group

    def version(self) -> str:
        return f"Kafka Connect {version_in(POM, 'connect-runtime')} with Debezium {DEBEZIUM}"

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Call the REST API, and return what it answers.

        Raises:
            ServiceError: with the status and the text of an error.
        """
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
        if response.status >= 300:
            raise ServiceError(f"{method} {path}: {response.status} {answer.decode()[:2000]}")
        return json.loads(answer) if answer else None

    def configure(self, name: str, config: Mapping[str, str]) -> None:
        """Create or change a connector, and wait until its task runs."""
        self.request("PUT", f"/connectors/{name}/config", config)
        self.wait_until_running(name)

    def wait_until_running(self, name: str) -> None:
        deadline = time.monotonic() + self.start_timeout
        while True:
            try:
                state = self.request("GET", f"/connectors/{name}/status")
            except ServiceError as error:
                state = {"tasks": [], "trouble": str(error)}
            if [task["state"] for task in state["tasks"]] == ["RUNNING"]:
                return
            failed = [task["trace"] for task in state["tasks"] if task["state"] == "FAILED"]
            if failed or time.monotonic() > deadline:
                raise ServiceError(f"the connector {name} does not run: {failed or state}")
            time.sleep(0.05)

    def _settings(self) -> dict[str, object]:
        """What `worker.properties` says."""
        group = f"connect-{self.directory.name}"
        return {
            "bootstrap.servers": self._kafka,
            "group.id": group,
            "listeners": f"HTTP://127.0.0.1:{self.port}",
            "key.converter": "org.apache.kafka.connect.json.JsonConverter",
            "value.converter": "org.apache.kafka.connect.json.JsonConverter",
            "config.storage.topic": f"{group}-configs",
            "offset.storage.topic": f"{group}-offsets",
            "offset.storage.partitions": 1,
            "status.storage.topic": f"{group}-status",
            "status.storage.partitions": 1,
            # One broker cannot replicate.
            "config.storage.replication.factor": 1,
            "offset.storage.replication.factor": 1,
            "status.storage.replication.factor": 1,
            "config.providers": "env",
            "config.providers.env.class": "org.apache.kafka.common.config.provider.EnvVarConfigProvider",
            # A worker that was killed leaves the group soon, and the next one starts its connectors at once.
            "session.timeout.ms": 3000,
            "heartbeat.interval.ms": 500,
            "scheduled.rebalance.max.delay.ms": 0,
            # Offsets are seldom at the last record when the worker is killed.
            "offset.flush.interval.ms": 1000,
            "plugin.discovery": "service_load",
        }
