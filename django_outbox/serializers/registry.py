"""A schema registry, and what this process has loaded from it.

Only ``load()`` calls the registry, and never in a transaction; ``get()`` returns what is loaded. A loaded schema stays
usable while the registry is away: an id never changes its schema, and the latest version of a subject is refreshed in
the background.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured

from django_outbox.brokers.secrets import masked
from django_outbox.exceptions import MissingDependency, RegistryUnavailable, SchemaNotFound, in_one_line
from django_outbox.serializers.logins import keep_secrets, without_user
from django_outbox.serializers.outage import Outage

try:
    from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
    from confluent_kafka.schema_registry.error import SchemaRegistryError
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
_MISSING = (40401, 40402, 40403)
_REFUSED = (400, 409, 422)
_MOST_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class Loaded:
    """A schema of the registry.

    Attributes:
        kind: ``"AVRO"``, ``"JSON"`` or ``"PROTOBUF"``.
        versions: by subject; empty if the registry does not say. Several subjects may have the same schema.
        references: the names and texts of the schemas that this one uses, each after those that it uses itself.
    """

    id: int
    kind: str
    text: str
    versions: tuple[tuple[str, int], ...] = ()
    references: tuple[tuple[str, str], ...] = ()

    def version_in(self, subject: str) -> int | None:
        """Return the version in this subject, else in any; None if it is not known."""
        versions = dict(self.versions)
        return versions.get(subject, next(iter(versions.values()), None))


class Wanted(NamedTuple):
    """A schema to load, by its id, or of a subject: the version with this ``text``, or the latest.

    ``register`` adds the text to the subject if it is not one of its versions.
    """

    kind: str
    id: int = 0
    subject: str = ""
    text: str | None = None
    register: bool = False


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
            # Any, as all that it returns may be None by its annotations.
            self._client: Any = SchemaRegistryClient({**_CLIENT_OPTIONS, **user, **options, "url": urls})
        except Exception as error:  # also OSError and SSLError, for files of certificates
            raise ImproperlyConfigured(f"The client of the schema registry: {_text_of(error)}.") from None
        self.url = urls
        """For messages, without user and password."""
        self._clock = clock
        self._outage = Outage(urls, clock)
        self._entries: dict[Wanted, _Entry] = {}
        self._queue: dict[Wanted, None] = {}
        self._asked_at: dict[Wanted, float] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"Registry({self.url})"

    def close(self) -> None:
        """Close its connections. It is unusable afterwards."""
        self._client.close()
        self._outage.close()

    def get(self, wanted: Wanted) -> Loaded | None:
        """Return a loaded schema, or None if it must be loaded first. Calls no server.

        Raises:
            SchemaNotFound: the registry does not have it.
            RegistryUnavailable: the registry is away. It is asked in the background, again and again while messages wait.
        """
        entry = self._entries.get(wanted)
        is_due = entry is not None and entry.due_at <= self._clock()
        if entry is None or (is_due and entry.loaded is None):
            if (fault := self._outage.fault()) is None:
                return None
            if self._outage.is_retry_due:
                self.load_in_background(wanted)
            raise fault
        if is_due:
            self.load_in_background(wanted)
        if entry.loaded is None:
            raise SchemaNotFound(entry.reason)
        return entry.loaded

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
            is_latest = not wanted.id and wanted.text is None
            due_at = self._clock() + REFRESH_SECONDS if is_latest else float("inf")
            self._entries[wanted] = _Entry(loaded, "", due_at)

    def _forget_expired(self) -> None:
        """Forget what the registry did not have: records may name any number of ids."""
        if len(self._entries) > _MOST_ENTRIES:
            now = self._clock()
            for wanted, entry in list(self._entries.items()):
                if entry.loaded is None and entry.due_at <= now:
                    self._entries.pop(wanted, None)

    def is_compatible(self, wanted: Wanted) -> bool:
        """Return whether the registry would accept a schema as a new version; True also for a new subject.

        Raises:
            RegistryUnavailable: the registry cannot be asked.
            SchemaNotFound: the schema is not valid.
        """
        schema = Schema(wanted.text, wanted.kind)
        try:
            return bool(self._client.test_compatibility_all_versions(wanted.subject, schema))
        except SchemaRegistryError as error:
            if _is_missing(error):
                return True
            raise self._fault(wanted, error) from None
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
                self._thread = threading.Thread(target=self._load_queued, name="outbox-schemas", daemon=True)
                self._thread.start()

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
            if wanted.id:
                schema = self._client.get_schema(wanted.id)
                return self._loaded(wanted.id, schema, self._versions_of(wanted.id))
            found = self._latest(wanted.subject) if wanted.text is None else self._version_with(wanted)
            return self._loaded(found.schema_id, found.schema, ((found.subject, found.version),))
        except Exception as error:
            raise self._fault(wanted, error) from None

    def _fault(self, wanted: Wanted, error: Exception) -> SchemaNotFound | RegistryUnavailable:
        """Whose fault an error of the client is. It passes on those of its HTTP library, whatever that is."""
        what = f"schema {wanted.id}" if wanted.id else f"subject {wanted.subject!r}"
        if not isinstance(error, SchemaRegistryError):
            return RegistryUnavailable(f"{self.url} cannot be reached: {_text_of(error)}.")
        if _is_missing(error):
            return SchemaNotFound(self._not_found(wanted))
        if error.http_status_code == 403:
            return SchemaNotFound(f"The schema registry {self.url} refuses this login for {what}: {_text_of(error)}.")
        if error.http_status_code in _REFUSED:
            return SchemaNotFound(f"The schema registry {self.url} refuses the schema for {what}: {_text_of(error)}.")
        return RegistryUnavailable(f"{self.url} answers {error.http_status_code} for {what}: {_text_of(error)}.")

    def _latest(self, subject: str) -> Any:
        self._client.clear_latest_caches()
        return self._client.get_latest_version(subject)

    def _version_with(self, wanted: Wanted) -> Any:
        schema = Schema(wanted.text, wanted.kind)
        try:
            return self._client.lookup_schema(wanted.subject, schema, normalize_schemas=True)
        except SchemaRegistryError as error:
            if not _is_missing(error) or not wanted.register:
                raise
        self._client.register_schema(wanted.subject, schema)
        return self._client.lookup_schema(wanted.subject, schema)

    def _versions_of(self, schema_id: int) -> tuple[tuple[str, int], ...]:
        try:
            found = self._client.get_schema_versions(schema_id)
        except SchemaRegistryError as error:
            if error.http_status_code != 404:  # of a registry that does not know this call
                raise
            found = []
        return tuple((each.subject, each.version) for each in found)

    def _loaded(self, schema_id: int, schema: Any, versions: tuple[tuple[str, int], ...]) -> Loaded:
        references = tuple(self._references(schema).items())
        return Loaded(schema_id, schema.schema_type or "AVRO", schema.schema_str, versions, references)

    def _references(self, schema: Any) -> dict[str, str]:
        texts: dict[str, str] = {}
        for reference in schema.references or ():
            used = self._client.get_version(reference.subject, reference.version, deleted=True).schema
            texts |= {**self._references(used), reference.name: used.schema_str}
        return texts

    def _not_found(self, wanted: Wanted) -> str:
        if wanted.id:
            return (
                f"The schema registry {self.url} has no schema {wanted.id}: it was deleted, or the record was written "
                "with another registry."
            )
        if wanted.text is None:
            return (
                f"The schema registry {self.url} has no subject {wanted.subject!r}: register its schema, or correct "
                "the option subject."
            )
        return (
            f"The schema of this project is not registered under {wanted.subject!r} in {self.url}: "
            "run manage.py outbox_schemas register."
        )


def _is_missing(error: SchemaRegistryError) -> bool:
    """True if the registry says that it has no such subject, version or schema. Any server answers 404 to a wrong URL."""
    return error.http_status_code == 404 and error.error_code in _MISSING


def _text_of(error: Exception) -> str:
    text = error.error_message if isinstance(error, SchemaRegistryError) else in_one_line(error)
    return masked(str(text))[:300].rstrip(".")
