"""The TLS files that a project names, loaded before any client does, for errors that say what is wrong with them."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured


@dataclass(frozen=True, slots=True)
class TLS:
    """A client's TLS files."""

    cafile: str | None = None  # certificates of authorities, or a directory of them; None means the system's
    certfile: str | None = None  # the client's certificate
    keyfile: str | None = None  # its key; None means in certfile
    password: str | None = field(default=None, repr=False)  # of the key
    checks_name: bool = True  # whether the broker's certificate must be for its host
    checks: bool = True  # whether the broker's certificate is checked at all
    # False if the project sets more than this, such as a key store or its own context; then it is unknown whom the client
    # trusts and which certificate it shows.
    complete: bool = True
    names: Mapping[str, str] = field(  # the project's names of these options, for messages
        default_factory=lambda: {name: f"ssl_{name}" for name in ("cafile", "certfile", "keyfile", "password")}
    )

    def context(self) -> ssl.SSLContext:
        """A context with these files; raises ImproperlyConfigured, which names the wrong option but not the password."""
        context = ssl.create_default_context()
        context.check_hostname = self.checks_name and self.checks
        if not self.checks:
            context.verify_mode = ssl.CERT_NONE
        if self.cafile and Path(self.cafile).is_dir():
            context.load_verify_locations(capath=self.cafile)
        elif self.cafile:
            self._require("cafile")
            try:
                context.load_verify_locations(self.cafile)
            except ssl.SSLError:
                reason = f"the file that {self.names['cafile']} names does not contain a certificate in PEM format"
                raise _wrong(reason) from None
        if self.certfile:
            self._require("certfile")
            if self.keyfile:
                self._require("keyfile")
            try:
                # Without a password OpenSSL would ask for one on the terminal.
                context.load_cert_chain(self.certfile, self.keyfile, password=self.password or "")
            except (ssl.SSLError, OSError, ValueError) as error:
                raise _wrong(self._why_not(error)) from None
        return context

    def _why_not(self, error: Exception) -> str:
        """Why certificate and key cannot be loaded."""
        certfile, keyfile, password = (self.names[name] for name in ("certfile", "keyfile", "password"))
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            return f"the key in {keyfile} does not belong to the certificate in {certfile}"
        key = Path(self.keyfile or self.certfile or "").read_bytes()
        if b"PRIVATE KEY" not in key:
            return f"the file that {keyfile} (or, without it, {certfile}) names does not contain a key in PEM format"
        if b"ENCRYPTED" in key:
            return f"the key in {keyfile} is encrypted, and {password} {'is wrong' if self.password else 'is missing'}"
        return f"{certfile} and {keyfile} must name a certificate and its key in PEM format"

    def _require(self, name: str) -> None:
        """Raise if a file cannot be read; libraries do not say which one."""
        path = Path(str(getattr(self, name)))
        try:
            path.open("rb").close()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a valid path"
            raise _wrong(f"the file that {self.names[name]} names cannot be read ({reason}): {str(path)!r}") from None


def _wrong(reason: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f'OUTBOX["BROKER"]: {reason}.')
