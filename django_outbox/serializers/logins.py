"""Users and passwords in the options of a registry's client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from django_outbox.brokers.secrets import keep

_SECRETS = ("password", "secret", "token", "user.info")


def keep_secrets(options: Mapping[str, Any]) -> None:
    """Let no text show them: also those of URLs that are not valid, and of options for the project's own classes."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            keep(*_texts_in(value))
        elif isinstance(value, str) and name.endswith(_SECRETS):
            keep(value, value.partition(":")[2])
        elif isinstance(value, str) and name in ("url", "proxy"):
            for url in value.split(","):
                login = (url.partition("://")[2] or url).strip().rpartition("@")[0]
                password = login.partition(":")[2] or login
                keep(password, unquote(password))


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts_in(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts_in(each)


def without_user(urls: str) -> tuple[str, dict[str, str]]:
    """Move the login out of the URLs, which the client's HTTP library logs, into an option."""
    parts = [urlsplit(url.strip()) for url in urls.split(",")]
    login, _, _ = parts[0].netloc.rpartition("@")
    shown = ",".join(each._replace(netloc=each.netloc.rpartition("@")[2]).geturl().rstrip("/") for each in parts)
    return shown, {"basic.auth.user.info": unquote(login)} if login else {}
