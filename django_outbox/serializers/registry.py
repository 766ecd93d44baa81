"""A schema registry, and what this process has loaded from it.

Only ``load()`` calls the registry, never in a transaction, and ``incompatibilities()`` for ``outbox_schemas``; ``get()``
returns what is loaded. A loaded schema stays
usable while the registry is away: an id never changes its schema, and the latest version of a subject is refreshed in
the background.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from django.core.exceptions import ImproperlyConfigured

from django_outbox.brokers.secrets import masked
from django_outbox.exceptions import MissingDependency, RegistryUnavailable, SchemaNotFound, in_one_line
from django_outbox.serializers.logins import keep_secrets, without_user
from django_outbox.serializers.outage import Outage

try:
    from confluent_kafka.schema_registry import SchemaRegistryClient
    from confluent_kafka.schema_registry.error import SchemaRegistryError

    from django_outbox.serializers.lookups import ByText, Latest, Loaded, Wanted, incompatibilities, is_missing
except ImportError as error:
    raise MissingDependency(
        'OUTBOX["SERIALIZERS"] needs the client of the schema registry: '
        "pip install 'django-kafka-outbox[avro]' (or [protobuf], [jsonschema])."
    ) from error

REFRESH_SECONDS = 300.0
"""How long the latest version of a subject is used before the registry is asked for a later one."""
RETRY_SECONDS = 10.0
"""How long to wait before the registry is asked again for what it does not have, or in the background."""
_CLIENT_OPTIONS = {"timeout": 5, "max.retries": 1, "retries.wait.ms": 200}
_REFUSED = (400, 409, 422)
_SHOWN = 300
_MOST_ENTRIES = 10_000


@dataclass(slots=True)
class _Entry:
    loaded: Loaded | None
    reason: str
    due_at: float


class Registry:
    """One schema registry. All threads share it."""

    def __init__(self, options: Mapping[str, Any], *, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            options: of ``SchemaRegistryClient``; they may contain secrets and are never shown.

        Raises:
            ImproperlyConfigured: the client refuses them.
        """
        keep_secrets(options)
        try:
            urls, user = without_user(options["url"])
            self._options = {**_CLIENT_OPTIONS, **user, **options, "url": urls}
            # Any, as all that it returns may be None by its annotations.
            self._opened: Any = SchemaRegistryClient(self._options)
        except Exception as error:  # also OSError and SSLError, for files of certificates
            raise ImproperlyConfigured(f"The client of the schema registry: {_text_of(error)}.") from None
        self.url = masked(urls)
        """For messages, without user and password."""
        self._of_parents: list[Any] = []
        self._clock = clock
        self._outage = Outage(self.url, clock)
        self._entries: dict[Wanted, _Entry] = {}
        self._queue: dict[Wanted, None] = {}
        self._asked_at: dict[Wanted, float] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        _registries.add(self)

    def __repr__(self) -> str:
        return f"Registry({self.url})"

    def close(self) -> None:
        """Close its connections. It is unusable afterwards."""
        if self._opened is not None:
            self._opened.__exit__(None, None, None)  # the oldest supported client has no close()
        self._outage.close()

    def after_fork(self) -> None:
        """Share no connection with the parent, as two processes would read each other's answers."""
        self._of_parents.append(self._opened)  # it must not be closed
        self._opened = None
        self._lock = threading.Lock()
        self._thread = None
        self._queue.clear()
        self._asked_at.clear()
        self._outage.close()
        self._outage = Outage(self.url, self._clock)

    @property
    def _client(self) -> Any:
        if self._opened is None:
            self._opened = SchemaRegistryClient(self._options)
        return self._opened

    def get(self, wanted: Wanted) -> Loaded | None:
        """Return a loaded schema, or None if it must be loaded first. Calls no server.

        Raises:
            SchemaNotFound: the registry does not have it.
            RegistryUnavailable: the registry is away. It is asked in the background, again and again while messages wait.
        """
        entry = self._entries.get(wanted)
        is_due = entry is not None and entry.due_at <= self._clock()
        if entry is None or (is_due and entry.loaded is None):
            self.require_answers(wanted)
            return None
        if is_due:
            self.load_in_background(wanted)
        if entry.loaded is None:
            raise SchemaNotFound(entry.reason)
        return entry.loaded

    def require_answers(self, wanted: Wanted) -> None:
        """Check that one need not wait long for ``load()``. Calls no server.

        Raises:
            RegistryUnavailable: the registry is away. It is asked in the background, again and again while messages wait.
        """
        if (fault := self._outage.fault()) is not None:
            if self._outage.is_retry_due:
                self.load_in_background(wanted)
            raise fault

    def load(self, wanted: Wanted) -> None:
        """Load a schema; call this outside of transactions. That it does not exist shows in ``get()``.

        Raises:
            RegistryUnavailable: the registry cannot be asked, or should not be yet. What was loaded before stays.
        """
        try:
            with self._outage.asking():
                loaded = self._ask(wanted)
        except SchemaNotFound as error:
            self._forget_expired()
            self._entries[wanted] = _Entry(None, str(error), self._clock() + RETRY_SECONDS)
        else:
            due_at = self._clock() + REFRESH_SECONDS if isinstance(wanted, Latest) else float("inf")
            self._entries[wanted] = _Entry(loaded, "", due_at)

    def _forget_expired(self) -> None:
        """Forget what the registry did not have: records may name any number of ids."""
        if len(self._entries) > _MOST_ENTRIES:
            now = self._clock()
            for wanted, entry in list(self._entries.items()):
                if entry.loaded is None and entry.due_at <= now:
                    self._entries.pop(wanted, None)

    def may_be_outdated(self, wanted: Wanted) -> bool:
        """Return whether the registry may have a later schema by now, which should be loaded before one gives up."""
        entry = self._entries.get(wanted)
        if entry is None or not isinstance(wanted, Latest):
            return False
        return self._clock() >= entry.due_at - REFRESH_SECONDS + RETRY_SECONDS

    def incompatibilities(self, wanted: ByText) -> list[str]:
        """Return why the registry would not accept a schema as a new version; empty if it would.

        Raises:
            RegistryUnavailable: the registry cannot be asked.
            SchemaNotFound: the schema is not valid.
        """
        try:
            return [masked(each)[:_SHOWN] for each in incompatibilities(self._client, wanted)]
        except Exception as error:
            raise self._fault(wanted, error) from None

    def load_in_background(self, wanted: Wanted) -> None:
        """Load a schema without waiting for it; at most once in ``RETRY_SECONDS``, or when an outage may be over."""
        now = self._clock()
        with self._lock:
            if now - self._asked_at.get(wanted, float("-inf")) < RETRY_SECONDS and not self._outage.is_retry_due:
                return
            self._asked_at[wanted] = now
            self._queue[wanted] = None
            if self._thread is None or not self._thread.is_alive():  # it is not alive after a fork
                thread = threading.Thread(target=self._load_queued, name="outbox-schemas", daemon=True)
                with suppress(RuntimeError):  # none can start when the process ends
                    thread.start()
                    self._thread = thread

    def _load_queued(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._thread = None
                    return
                wanted = next(iter(self._queue))
                del self._queue[wanted]
            with suppress(RegistryUnavailable):  # the outage is logged
                self.load(wanted)

    def _ask(self, wanted: Wanted) -> Loaded:
        try:
            return wanted.ask(self._client)
        except Exception as error:
            raise self._fault(wanted, error) from None

    def _fault(self, wanted: Wanted, error: Exception) -> SchemaNotFound | RegistryUnavailable:
        """Whose fault an error of the client is. It passes on those of its HTTP library, whatever that is."""
        if not isinstance(error, SchemaRegistryError):
            return RegistryUnavailable(f"{self.url} cannot be reached: {_text_of(error)}.")
        if is_missing(error):
            return SchemaNotFound(wanted.missing_in(self.url))
        if error.http_status_code == 403:
            return SchemaNotFound(f"The schema registry {self.url} refuses this login for {wanted}: {_text_of(error)}.")
        if error.http_status_code in _REFUSED:
            return SchemaNotFound(f"The schema registry {self.url} refuses the schema for {wanted}: {_text_of(error)}.")
        return RegistryUnavailable(f"{self.url} answers {error.http_status_code} for {wanted}: {_text_of(error)}.")


_registries: WeakSet[Registry] = WeakSet()


def _after_fork() -> None:
    for registry in _registries:
        registry.after_fork()


os.register_at_fork(after_in_child=_after_fork)


def _text_of(error: Exception) -> str:
    text = error.error_message if isinstance(error, SchemaRegistryError) else in_one_line(error)
    return masked(str(text))[:_SHOWN].rstrip(".")
