"""Apache Kafka that demands TLS, logins and permissions: one server, with a port for each way to come in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tests.support.servers.apache_kafka import ApacheKafka
from tests.support.servers.certificates import Certificates
from tests.support.servers.process import free_port


@dataclass(frozen=True, slots=True)
class Login:
    """A user, and what of a URL it takes to be it."""

    user: str
    password: str

    @property
    def userinfo(self) -> str:
        return f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@"


# Who may come in by which mechanism. In a URL most of these characters must be percent-encoded.
PLAIN = Login("plain-alice", "open:sesame@42/%?#ü")
SCRAM = Login("scram-bob", "swordfish:77@%")
SECRETS = [
    secret for login in (PLAIN, SCRAM) for secret in (login.user, login.password, quote(login.password, safe=""))
]


@dataclass(frozen=True, slots=True)
class _Way:
    """One port.

    Attributes:
        protocol: Kafka's name for how it speaks.
        certificate: what the server shows; the name of an attribute of `Certificates`.
        clients: whether it demands certificates of its clients.
    """

    protocol: str
    certificate: str | None = None
    clients: bool = False


WAYS = {
    "PLAINTEXT": _Way("PLAINTEXT"),
    "TLS": _Way("SSL", "server"),
    "MUTUAL": _Way("SSL", "server", clients=True),
    "EXPIRED": _Way("SSL", "expired"),
    "MISNAMED": _Way("SSL", "misnamed"),
    "LOGIN": _Way("SASL_PLAINTEXT"),
    "SECURE": _Way("SASL_SSL", "server"),
}


class SecuredKafka(ApacheKafka):
    """Anonymous clients may do all, clients with a name what they are allowed by ACLs.

    So a test makes its topics at `url`, and gives rights there.
    """

    def prepare(self) -> None:
        super().prepare()
        self.certificates = Certificates(self.directory)
        self._ports = {name: free_port() for name in WAYS if name != "PLAINTEXT"}

    def address(self, way: str) -> str:
        """Where one of `WAYS` comes in."""
        return f"127.0.0.1:{self.port if way == 'PLAINTEXT' else self._ports[way]}"

    def command(self) -> list[str | Path]:
        listeners = ",".join(
            [*(f"{name}://{self.address(name)}" for name in WAYS), f"CONTROLLER://127.0.0.1:{self._controller_port}"]
        )
        protocols = ",".join([*(f"{name}:{way.protocol}" for name, way in WAYS.items()), "CONTROLLER:PLAINTEXT"])
        properties: dict[str, object] = {
            "listeners": listeners,
            "advertised.listeners": listeners,
            "listener.security.protocol.map": protocols,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
            "connection.failed.authentication.delay.ms": 100,
            "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/",
        }
        for name, way in WAYS.items():
            properties |= self._properties_of(f"listener.name.{name.lower()}", way)
        overrides = [word for name, value in properties.items() for word in ("--override", f"{name}={value}")]
        return [*super().command(), *overrides]

    def _properties_of(self, prefix: str, way: _Way) -> dict[str, object]:
        properties: dict[str, object] = {}
        if way.certificate is not None:
            properties |= {
                f"{prefix}.ssl.keystore.type": "PEM",
                f"{prefix}.ssl.keystore.location": getattr(self.certificates, way.certificate).both,
                f"{prefix}.ssl.truststore.type": "PEM",
                f"{prefix}.ssl.truststore.location": self.certificates.server.authority,
                f"{prefix}.ssl.client.auth": "required" if way.clients else "none",
            }
        if "SASL" in way.protocol:
            security = "org.apache.kafka.common.security"
            properties |= {
                f"{prefix}.plain.sasl.jaas.config": (
                    f'{security}.plain.PlainLoginModule required user_{PLAIN.user}="{PLAIN.password}";'
                ),
                f"{prefix}.scram-sha-512.sasl.jaas.config": f"{security}.scram.ScramLoginModule required;",
            }
        return properties

    def _format_options(self) -> list[str]:
        return [*super()._format_options(), f"--add-scram=SCRAM-SHA-512=[name={SCRAM.user},password={SCRAM.password}]"]
