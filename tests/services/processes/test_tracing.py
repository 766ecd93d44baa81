"""One trace through four processes' work: a request, the relay, a real broker, the consumer and what follows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import Command
from tests.support.tracing import Spans, identity

Start = Callable[..., Command]


def recorded(directory: Path) -> list[dict[str, Any]]:
    """The spans of all commands, in the order in which they began."""
    lines = [line for file in directory.iterdir() for line in file.read_text().splitlines()]
    return sorted((json.loads(line) for line in lines), key=lambda span: span["start_time"])


def hexadecimal(ids: tuple[int, int]) -> tuple[str, str]:
    return f"0x{ids[0]:032x}", f"0x{ids[1]:016x}"


def own(span: dict[str, Any]) -> tuple[str, str]:
    return span["context"]["trace_id"], span["context"]["span_id"]


def test_one_trace_goes_from_the_request_through_relay_and_consumer_to_what_its_handler_publishes(
    send: Any,
    relay: Start,
    consumer: Start,
    consumed: Any,
    topic: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    relayed, handled = tmp_path / "relay", tmp_path / "consumer"
    for directory in (relayed, handled):
        directory.mkdir()
    spans = Spans(monkeypatch)
    commands = [relay(env={"TESTS_TRACES": str(relayed)}), consumer(env={"TESTS_TRACES": str(handled)})]
    with spans.request() as request:
        send("test.publishes", "a tent", key="7")
    consumed(2)
    for command in commands:
        assert command.stop() == 0

    created = hexadecimal(identity(spans.one("create")))
    first, follow_up, second = (span for span in recorded(handled) if "messaging.system" in span["attributes"])
    assert [span["name"] for span in (first, follow_up, second)] == [
        f"process {topic}",
        f"create {topic}",
        f"process {topic}",
    ]
    assert {own(span)[0] for span in (first, follow_up, second)} == {hexadecimal(identity(request))[0]}
    assert [span["parent_id"] for span in (first, follow_up, second)] == [created[1], own(first)[1], own(follow_up)[1]]
    assert first["attributes"]["messaging.consumer.group.name"] == topic
    links = [
        (link["context"]["trace_id"], link["context"]["span_id"])
        for span in recorded(relayed)
        for link in span["links"]
    ]
    assert links == [created, own(follow_up)]
    assert {span["name"] for span in recorded(relayed)} == {f"send {topic}"}
