"""Brokers that are reached differently from those that all tests share."""

from __future__ import annotations

from pathlib import Path

from tests.support.brokers.proxy import Proxy
from tests.support.servers.apache_kafka import ApacheKafka
from tests.support.servers.base import Service
from tests.support.servers.tansu import Tansu

USER, PASSWORD = "alice", "open-sesame-42"


class TansuBehindProxy(Tansu):
    """Advertises the address of a proxy."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__()
        self._proxy = proxy

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self._proxy.port}"

    def command(self) -> list[str]:
        command = super().command()
        command[command.index("--advertised-listener-url") + 1] = f"tcp://127.0.0.1:{self._proxy.port}"
        return command


class ApacheKafkaBehindProxy(ApacheKafka):
    """Advertises the address of a proxy."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__()
        self._proxy = proxy

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self._proxy.port}"

    def command(self) -> list[str | Path]:
        return [
            *super().command(),
            "--override",
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{self._proxy.port},"
            f"CONTROLLER://127.0.0.1:{self._controller_port}",
        ]


class SecondApacheKafka(ApacheKafka):
    """Joins another broker's cluster as node 2."""

    def __init__(self, first: ApacheKafka) -> None:
        super().__init__()
        self._first = first

    def prepare(self) -> None:
        super().prepare()
        self._controller_port = self._first._controller_port

    def _settings(self) -> dict[str, object]:
        listener = f"PLAINTEXT://127.0.0.1:{self.port}"
        return super()._settings() | {
            "process.roles": "broker",
            "node.id": 2,
            "listeners": listener,
            "advertised.listeners": listener,
        }

    def _format_options(self) -> list[str]:
        meta = (self._first.directory / "data" / "meta.properties").read_text()
        cluster = next(line.partition("=")[2] for line in meta.splitlines() if line.startswith("cluster.id="))
        return [f"--cluster-id={cluster}"]


OWN: dict[str, type[Service]] = {"tansu": Tansu, "apache": ApacheKafka}
BEHIND_PROXY: dict[str, type[TansuBehindProxy] | type[ApacheKafkaBehindProxy]] = {
    "tansu": TansuBehindProxy,
    "apache": ApacheKafkaBehindProxy,
}
