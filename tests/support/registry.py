"""A schema registry in this process that answers as Apicurio and Confluent's do, for tests without a server."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from django_outbox.serializers.registry import Registry
from django_outbox.serializers.schemas import close_registries
from tests.support.clock import Clock

Answer = tuple[int, Any]


class StubRegistry:
    """Schemas by subject; a schema has the same id in all of them.

    ``answer`` may answer a request instead, given its method and path: it returns None to leave it to the stub.
    """

    def __init__(self) -> None:
        self.schemas: list[dict[str, Any]] = []
        self.subjects: dict[str, list[int]] = {}
        self.requests: list[str] = []
        self.queries: dict[str, str] = {}  # of the last request each
        self.logins: list[str | None] = []
        self.is_back = threading.Event()
        """Requests that ``hang`` answers wait for this."""
        self.connections: set[Any] = set()
        self.incompatibilities: list[str] = []
        self.answer: Callable[[str, str], Answer | None] = lambda method, path: None
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer("GET", None)

            def do_POST(self) -> None:
                self._answer("POST", json.loads(self.rfile.read(int(self.headers["content-length"]))))

            def _answer(self, method: str, body: Any) -> None:
                path, _, query = self.path.partition("?")
                stub.queries[f"{method} {path}"] = query
                stub.logins.append(self.headers["authorization"])
                stub.requests.append(f"{method} {path}")
                stub.connections.add(self.client_address)
                normalize = "normalize=true" in query.lower()
                status, content = stub.answer(method, path) or stub.respond(method, path, body, normalize=normalize)
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # the client has left

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def go_away(self) -> None:
        """Answer each request with 503."""
        self.answer = lambda method, path: (503, {"message": "away"})

    def hang(self) -> None:
        """Let each request wait until the registry comes back, or the test ends; then it fails."""
        self.is_back.clear()

        def answer(method: str, path: str) -> Answer:
            self.is_back.wait(600)
            return 503, {"message": "away"}

        self.answer = answer

    def come_back(self) -> None:
        self.answer = lambda method, path: None
        self.is_back.set()

    def close(self) -> None:
        self.is_back.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def register(self, subject: str, schema: Any, kind: str = "AVRO", references: Any = ()) -> int:
        """Add a version of a subject; returns the id of its schema."""
        text = schema if isinstance(schema, str) else json.dumps(schema)
        return self._add(subject, {"schema": text, "schemaType": kind, "references": list(references)})

    def _add(self, subject: str, schema: dict[str, Any]) -> int:
        if schema not in self.schemas:
            self.schemas.append(schema)
        number = self.schemas.index(schema) + 1
        versions = self.subjects.setdefault(subject, [])
        if number not in versions:
            versions.append(number)
        return number

    def respond(self, method: str, path: str, body: Any, *, normalize: bool = False) -> Answer:
        if found := re.fullmatch(r"/schemas/ids/(\d+)(/versions)?", path):
            number = int(found[1])
            if not 0 < number <= len(self.schemas):
                return 404, {"error_code": 40403, "message": "Schema not found"}
            return 200, self._versions(number) if found[2] else self.schemas[number - 1]
        found = re.fullmatch(r"(/compatibility)?/subjects/([^/]+)(?:/versions(?:/(\w+))?)?", path)
        assert found is not None, path
        subject, version = found[2], found[3]
        if found[1]:
            if subject not in self.subjects:
                return 404, {"error_code": 40401, "message": "Subject not found"}
            return 200, {"is_compatible": not self.incompatibilities, "messages": self.incompatibilities}
        if method == "POST" and path.endswith("/versions"):
            if self.incompatibilities:
                return 409, {"error_code": 409, "message": "; ".join(self.incompatibilities)}
            return 200, {"id": self._add(subject, _schema_of(body))}
        if subject not in self.subjects:
            return 404, {"error_code": 40401, "message": "Subject not found"}
        numbers = self.subjects[subject]
        if method == "GET":
            return 200, self._version(subject, numbers[-1] if version == "latest" else numbers[int(version) - 1])
        wanted = _canonical(_schema_of(body), normalize=normalize)
        for number in numbers:
            if _canonical(self.schemas[number - 1]) == wanted:
                return 200, self._version(subject, number)
        return 404, {"error_code": 40403, "message": "Schema not found"}

    def _versions(self, number: int) -> list[dict[str, Any]]:
        return [
            {"subject": subject, "version": numbers.index(number) + 1}
            for subject, numbers in self.subjects.items()
            if number in numbers
        ]

    def _version(self, subject: str, number: int) -> dict[str, Any]:
        version = self.subjects[subject].index(number) + 1
        return {"subject": subject, "id": number, "version": version, **self.schemas[number - 1]}


def _schema_of(body: Any) -> dict[str, Any]:
    return {
        "schema": body["schema"],
        "schemaType": body.get("schemaType", "AVRO"),
        "references": body.get("references") or [],
    }


def _canonical(schema: dict[str, Any], *, normalize: bool = False) -> Any:
    """What Confluent's registry compares: only in Avro, the order of keys in the text does not matter."""
    format, text = schema["schemaType"], schema["schema"]
    if format == "AVRO":
        return {**schema, "schema": json.loads(text)}
    if format == "JSON":
        return {**schema, "schema": json.dumps(json.loads(text), sort_keys=normalize)}
    return {**schema, "schema": f"normalized {text}"} if normalize else schema


def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of all registries that are made from now on."""
    clock = Clock(1000.0)
    make = Registry.__init__
    monkeypatch.setattr(Registry, "__init__", lambda self, options: make(self, options, clock=clock))
    return clock


@contextmanager
def stub_registry() -> Iterator[StubRegistry]:
    """A registry for one test, which forgets what the process has loaded."""
    stub = StubRegistry()
    try:
        yield stub
    finally:
        stub.come_back()
        for thread in threading.enumerate():
            if thread.name == "outbox-schemas":
                thread.join(30)
        close_registries()
        stub.close()
