"""The ways to name a schema of a registry, each with the requests that find it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

from confluent_kafka.schema_registry import Schema
from confluent_kafka.schema_registry.error import SchemaRegistryError

_MISSING = (40401, 40402, 40403)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A schema of the registry.

    Attributes:
        format: ``"AVRO"``, ``"JSON"`` or ``"PROTOBUF"``.
        versions: by subject; empty if the registry does not say. Several subjects may have the same schema.
        references: the names and texts of the schemas that this one uses, each after those that it uses itself.
    """

    id: int
    format: str
    text: str
    versions: tuple[tuple[str, int], ...] = ()
    references: tuple[tuple[str, str], ...] = ()

    def version_in(self, subject: str) -> int | None:
        """Return the version in this subject, else in any; None if it is not known."""
        versions = dict(self.versions)
        return versions.get(subject, next(iter(versions.values()), None))


class ById(NamedTuple):
    """The schema with an id, which never changes."""

    format: str
    id: int

    def __str__(self) -> str:
        return f"schema {self.id}"

    def ask(self, client: Any) -> Loaded:
        schema = client.get_schema(self.id, fmt=_encoding(self.format))
        return _loaded(client, self.id, schema, _versions_of(client, self.id))

    def missing_in(self, url: str) -> str:
        return (
            f"The schema registry {url} has no schema {self.id}: it was deleted, or the record was written with "
            "another registry."
        )


class Latest(NamedTuple):
    """The latest version of a subject."""

    format: str
    subject: str

    def __str__(self) -> str:
        return f"subject {self.subject!r}"

    def ask(self, client: Any) -> Loaded:
        # Not get_latest_version(), whose answer the client keeps.
        found = client.get_version(self.subject, "latest", fmt=_encoding(self.format))
        return _loaded(client, found.schema_id, found.schema, ((found.subject, found.version),))

    def missing_in(self, url: str) -> str:
        return (
            f"The schema registry {url} has no subject {self.subject!r}: register its schema, or correct the option "
            "subject."
        )


class ByText(NamedTuple):
    """The version of a subject with a text, which never changes. ``register`` adds it if the subject does not have it."""

    format: str
    subject: str
    text: str
    register: bool = False

    def __str__(self) -> str:
        return f"subject {self.subject!r}"

    def ask(self, client: Any) -> Loaded:
        schema = Schema(self.text, self.format)
        found = self._found(client, schema)
        if found is None:
            client.register_schema(self.subject, schema)
            found = client.lookup_schema(self.subject, schema)
        return _loaded(client, found.schema_id, found.schema, ((found.subject, found.version),))

    def _found(self, client: Any, schema: Schema) -> Any:
        """The registered version; as it is first, since Confluent's registry finds normalized only what was normalized."""
        for normalize in (False, True):
            try:
                return client.lookup_schema(self.subject, schema, normalize_schemas=normalize)
            except SchemaRegistryError as error:
                if not is_missing(error) or (normalize and not self.register):
                    raise
        return None

    def missing_in(self, url: str) -> str:
        return (
            f"The schema of this project is not registered under {self.subject!r} in {url}: "
            "run manage.py outbox_schemas register."
        )


Wanted = ById | Latest | ByText


def is_missing(error: SchemaRegistryError) -> bool:
    """True if the registry says that it has no such subject, version or schema. Any server answers 404 to a wrong URL."""
    return error.http_status_code == 404 and error.error_code in _MISSING


def incompatibilities(client: Any, wanted: ByText) -> list[str]:
    """Return why the registry would not accept a text as a new version, in its own words; empty if it would."""
    # The client's own method returns only whether it would.
    path = f"compatibility/subjects/{quote(wanted.subject, safe='')}/versions?verbose=true"
    try:
        answer = client._rest_client.post(path, body=Schema(wanted.text, wanted.format).to_dict())
    except SchemaRegistryError as error:
        if is_missing(error):
            return []
        raise
    if answer["is_compatible"]:
        return []
    return [*map(str, answer.get("messages") or [answer.get("reason") or "incompatible with earlier versions"])]


def _encoding(format: str) -> str | None:
    """Protobuf as a file of descriptors, where the registry can write it; the others have one form."""
    return "serialized" if format == "PROTOBUF" else None


def _versions_of(client: Any, schema_id: int) -> tuple[tuple[str, int], ...]:
    try:
        found = client.get_schema_versions(schema_id)
    except SchemaRegistryError as error:
        if error.http_status_code != 404:  # of a registry that does not know this call
            raise
        found = []
    return tuple((each.subject, each.version) for each in found)


def _loaded(client: Any, schema_id: int, schema: Any, versions: tuple[tuple[str, int], ...]) -> Loaded:
    references = tuple(_references(client, schema).items())
    return Loaded(schema_id, schema.schema_type or "AVRO", schema.schema_str, versions, references)


def _references(client: Any, schema: Any) -> dict[str, str]:
    texts: dict[str, str] = {}
    for reference in schema.references or ():
        used = client.get_version(reference.subject, reference.version, deleted=True).schema
        texts |= {**_references(client, used), reference.name: used.schema_str}
    return texts
