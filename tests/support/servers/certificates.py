"""Certificates of the tests' own: an authority, good and bad servers, and clients. Nothing is kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

KEY_PASSWORD = "key-s3cret-77"


@dataclass(frozen=True, slots=True)
class Keyring:
    """Files in the PEM format.

    Attributes:
        authority: who signed, for those who check.
        certificate: with those of the authority behind it.
        key: not encrypted, in PKCS #8.
        both: key and certificate in one, as Kafka's servers want it.
        locked_key: the same key, encrypted with `KEY_PASSWORD`.
    """

    authority: Path
    certificate: Path
    key: Path
    both: Path
    locked_key: Path


class Certificates:
    """An authority that the tests' server trusts, and what it and another one have signed.

    Attributes:
        server: for 127.0.0.1 and localhost.
        expired: the same, and no longer valid.
        misnamed: for a host of another name.
        client: of the client `CLIENT`.
        stranger: of a client that an authority signed which nobody trusts.
    """

    CLIENT = "shop-relay"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        trusted, unknown = trustme.CA(organization_name="tests"), trustme.CA(organization_name="nobody")
        yesterday = datetime.now(UTC) - timedelta(days=1)
        here = ("127.0.0.1", "localhost")
        self.server = self._write("server", trusted, trusted.issue_cert(*here))
        self.expired = self._write(
            "expired", trusted, trusted.issue_cert(*here, not_before=yesterday - timedelta(1), not_after=yesterday)
        )
        self.misnamed = self._write("misnamed", trusted, trusted.issue_cert("elsewhere.example"))
        self.client = self._write("client", trusted, trusted.issue_cert("client.example", common_name=self.CLIENT))
        self.stranger = self._write("stranger", unknown, unknown.issue_cert("stranger.example"))

    def _write(self, name: str, authority: trustme.CA, issued: trustme.LeafCert) -> Keyring:
        key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), password=None)
        plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, serialization.NoEncryption())
        locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(KEY_PASSWORD.encode()))
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems) + authority.cert_pem.bytes()
        return Keyring(
            authority=self._file(f"{name}-authority.pem", authority.cert_pem.bytes()),
            certificate=self._file(f"{name}.pem", chain),
            key=self._file(f"{name}.key", plain),
            both=self._file(f"{name}-both.pem", plain + chain),
            locked_key=self._file(f"{name}-locked.key", locked),
        )

    def _file(self, name: str, content: bytes) -> Path:
        path = self._directory / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        return path
