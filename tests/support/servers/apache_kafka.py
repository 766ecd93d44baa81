"""Apache Kafka itself: one KRaft node from the jars of Maven's central repository."""

from __future__ import annotations

import base64
import uuid
from pathlib import Path

from tests.support.servers.base import Service
from tests.support.servers.fetching import find_program, jars_of, version_in
from tests.support.servers.kafka_protocol import broker_answers
from tests.support.servers.process import free_port

POM = Path(__file__).with_name("kafka") / "pom.xml"
KAFKA = version_in(POM, "kafka_2.13")


def new_cluster_id() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()


class ApacheKafka(Service):
    """Broker and controller in one process. Topics, offsets and groups survive `stop()` and `kill()`."""

    name = "kafka"
    releases = {"3.9": "3.9.2"}  # the last line whose brokers also speak the oldest protocols
    start_timeout = 90.0

    def __init__(self) -> None:
        super().__init__()
        self._controller_port = 0
        self._jars = Path()

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self.port}"

    def prepare(self) -> None:
        self._jars = jars_of(POM, f"kafka-{self._number}", f"-Dkafka_2.13={self._number}")
        self._controller_port = free_port()

    def command(self) -> list[str | Path]:
        # Here and not in prepare(): the port is part of what is written to the log directory.
        if not (self.directory / "data").exists():
            self._format()
        return self._java("kafka.Kafka", self._properties)

    def probe(self) -> None:
        broker_answers("127.0.0.1", self.port)

    def version(self) -> str:
        return f"Apache Kafka {self._number}"

    @property
    def _number(self) -> str:
        return self.releases[self.release] if self.release else KAFKA

    @property
    def _properties(self) -> Path:
        return self.directory / "server.properties"

    def _java(self, main: str, *arguments: str | Path) -> list[str | Path]:
        # Serial collector and a small heap: the node must leave the machine to the tests.
        options = ["-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dlog4j2.level=WARN"]
        return [find_program("java", "default-jre-headless"), *options, "-cp", f"{self._jars}/*", main, *arguments]

    def _format(self) -> None:
        self._properties.write_text("".join(f"{key}={value}\n" for key, value in self._settings().items()))
        command = self._java("kafka.tools.StorageTool", "format", *self._format_options(), "-c", self._properties)
        self.run(command, cwd=self.directory)

    def _settings(self) -> dict[str, object]:
        """What `server.properties` says."""
        listeners = f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self._controller_port}"
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self._controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": listeners,
            "advertised.listeners": listeners,
            "log.dirs": self.directory / "data",
            # A topic that is missing must be seen to be missing.
            "auto.create.topics.enable": "false",
            # One node cannot replicate.
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "offsets.topic.num.partitions": 4,
            # Do not let the first member of a group wait for others.
            "group.initial.rebalance.delay.ms": 0,
            # Tests may ask for impatient consumers.
            "group.min.session.timeout.ms": 1000,
        }

    def _format_options(self) -> list[str]:
        """How a log directory begins."""
        return ["--standalone", f"--cluster-id={new_cluster_id()}"]
