"""The benchmark of other packages: what it reads, what it prints, and what it writes to the documentation."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

import django_outbox
from benchmarks.payloads import PAYLOAD_BYTES, payload
from benchmarks.peers import report
from benchmarks.peers.stomp import StompServer, parse
from benchmarks.publish import BEGIN
from tests.support.documentation import END
from tests.support.processes import ROOT, wait_until

FOLDER = ROOT / "benchmarks" / "peers"


def a_round(*, seconds: float = 2.0, packages: dict[str, str] | None = None) -> dict[str, Any]:
    part = {"rows": 1000, "seconds": seconds, "cpu": 0.5}
    versions = {"Django": "5.2.19", **(packages or {})}
    return {"write": part, "write_many": part, "relay": part, "python": "3.13.0", "packages": versions}


def results(*peers: dict[str, Any], quick: bool = False) -> dict[str, Any]:
    return {
        "started": "2026-12-01T05:05:00Z",
        "load_at_start": [0.1, 0.1, 0.1],
        "machine": {"cpus": 2, "processor": "A processor", "platform": "Linux", "python": "3.11.7"},
        "servers": {"database": "PostgreSQL 18.6", "broker": "Tansu"},
        "options": {"runs": 3, "quick": quick},
        "peers": list(peers),
    }


def peer(name: str, *rounds: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "rounds": list(rounds), "failures": []}


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the page that figures are written to."""
    copy = tmp_path / "comparison.rst"
    copy.write_text(report.PAGE.read_text())
    monkeypatch.setattr(report, "PAGE", copy)
    return copy


@pytest.mark.parametrize("number", [0, 7, 39_999])
def test_all_payloads_have_the_same_size(number: int) -> None:
    assert len(json.dumps(payload(number))) == PAYLOAD_BYTES


def test_a_row_of_the_table_has_the_medians_of_the_rounds() -> None:
    rounds = [a_round(seconds=seconds, packages={"django-jaiminho": "2.2.1"}) for seconds in (1.0, 4.0, 2.0)]
    assert report.rows(results(peer("django-jaiminho", *rounds)))[1:] == [
        ("django-jaiminho 2.2.1", "500 rows/s", "500 rows/s", "500 messages/s", "500 µs", "1,000")
    ]


def test_a_package_without_a_finished_round_has_no_figures() -> None:
    (row,) = report.rows(results(peer("django-jaiminho")))[1:]
    assert row == ("django-jaiminho", "failed", "", "", "", "")


def test_this_package_is_named_with_the_version_of_the_sources() -> None:
    (row,) = report.rows(results(peer("django-kafka-outbox, kafka-python", a_round())))[1:]
    assert row[0] == f"django-kafka-outbox {django_outbox.__version__}, kafka-python"


def test_figures_are_written_between_the_comments_of_the_page(page: Path) -> None:
    before = page.read_text()
    report.publish(results(peer("django-jaiminho", a_round())))
    written = page.read_text()
    assert written.partition(BEGIN)[0] == before.partition(BEGIN)[0]
    assert written.rpartition(END)[2] == before.rpartition(END)[2]
    figures = written.partition(BEGIN)[2].partition(END)[0]
    assert "Measured on 2026-12-01 on 2 CPUs (A processor), with Python 3.13.0, PostgreSQL 18.6 and Tansu" in figures
    assert "medians of up to 3 rounds" in figures
    assert "500 messages/s" in figures


def test_nothing_is_written_if_a_package_failed(page: Path) -> None:
    before = page.read_text()
    with pytest.raises(ValueError, match="no figures of django-jaiminho"):
        report.publish(results(peer("django-kafka-outbox", a_round()), peer("django-jaiminho")))
    assert page.read_text() == before


def test_figures_of_a_smoke_test_are_not_written(page: Path) -> None:
    before = page.read_text()
    with pytest.raises(ValueError, match="smoke test"):
        report.publish(results(peer("django-jaiminho", a_round()), quick=True))
    assert page.read_text() == before


@pytest.mark.parametrize("module", sorted({each.module for each in report.PEERS}))
def test_the_requirements_of_each_package_are_pinned(module: str) -> None:
    for name in (f"requirements-{module}.txt", "requirements-common.txt"):
        for line in (FOLDER / name).read_text().splitlines():
            assert line == "-r requirements-common.txt" or re.fullmatch(r"[\w.\[\]-]+==[\w.]+", line), line


@pytest.mark.parametrize("package", ["django-jaiminho", "django-outbox-pattern", "django-reliable-outbox"])
def test_the_page_describes_the_release_that_is_measured(package: str) -> None:
    pinned = "\n".join(path.read_text() for path in FOLDER.glob("requirements-*.txt"))
    (version,) = re.findall(rf"^{package}==(.+)$", pinned, re.MULTILINE)
    assert re.search(rf"{package}\s+(?:[^\n]*\n\s*)?{re.escape(version)}\s", report.PAGE.read_text())


def test_a_frame_of_stomp_is_read() -> None:
    frame = b"\n\r\nSEND\ndestination:/topic/a\ndop-msg-id:7\n\n" + b'{"a": "b:c"}'
    assert parse(frame) == ("SEND", {"destination": "/topic/a", "dop-msg-id": "7"})


def test_the_stomp_server_counts_messages_and_answers() -> None:
    with StompServer() as server, socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(b"STOMP\naccept-version:1.2\n\n\0\n")
        assert client.recv(1000).startswith(b"CONNECTED\n")
        for number in b"1", b"2", b"2":
            client.sendall(b"SEND\ndop-msg-id:" + number + b"\n\n{}\0\n")
        client.sendall(b"DISCONNECT\nreceipt:bye\n\n\0")
        assert client.recv(1000) == b"RECEIPT\nreceipt-id:bye\n\n\0"
        wait_until(lambda: server.ids == {"1", "2"}, what="the server has counted two messages")
