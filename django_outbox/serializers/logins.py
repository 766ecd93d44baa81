"""Users and passwords in the options of a registry's client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from django_outbox.brokers.secrets import keep

_SECRETS = ("password", "secret", "token", "user.info")


def keep_secrets(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if isinstance(value, str) and name.endswith(_SECRETS):
            keep(value, value.partition(":")[2])
    for url in str(options.get("url", "")).split(","):
        try:
            parts = urlsplit(url.strip())
        except ValueError:
            continue
        keep(parts.password, unquote(parts.password or ""))


def without_user(urls: str) -> tuple[str, dict[str, str]]:
    """Move the login out of the URLs, which the client's HTTP library logs, into an option."""
    parts = [urlsplit(url.strip()) for url in urls.split(",")]
    login, _, _ = parts[0].netloc.rpartition("@")
    shown = ",".join(each._replace(netloc=each.netloc.rpartition("@")[2]).geturl().rstrip("/") for each in parts)
    return shown, {"basic.auth.user.info": unquote(login)} if login else {}
