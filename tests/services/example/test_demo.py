"""The demo shows what it promises, and leaves no process behind, however it ends."""

import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.services.example.processes import DemoProcess
from tests.support.processes import wait_until

pytestmark = [pytest.mark.databases("sqlite"), pytest.mark.brokers("tansu")]

WHOLE_SECONDS = 120  # under a minute on an idle machine
START_SECONDS = 60
STOP_SECONDS = 20


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[..., DemoProcess]]:
    started: list[DemoProcess] = []

    def start(*, terminal: bool = False) -> DemoProcess:
        started.append(DemoProcess(tmp_path, terminal=terminal))
        return started[-1]

    yield start
    for process in started:
        process.close()


def test_whole_demo_without_a_terminal(demo: Callable[..., DemoProcess]) -> None:
    process = demo()

    assert process.wait(WHOLE_SECONDS) == 0, process.output
    assert "dead, failed 3 of 3: KeyError: 'grand-piano'" in process.output
    end = process.output.partition("5. Every message is consumed")[2]
    assert end.count("order.created consumed, order.shipped consumed") == 9
    assert "admin/django_outbox/deadletter/" in process.output
    assert "Traceback" not in process.output
    assert "\x1b" not in process.output
    assert process.left_over() == []
    database = sqlite3.connect(process.state_dir / "shop.sqlite3")
    counts = database.execute("SELECT status, count(*) FROM django_outbox_outboxmessage GROUP BY 1")
    assert dict(counts.fetchall()) == {"consumed": 18}
    assert database.execute("SELECT count(*) FROM shipping_shipment").fetchone() == (9,)
    database.close()
    warehouse = sqlite3.connect(process.state_dir / "warehouse.sqlite3")
    assert warehouse.execute("SELECT count(*) FROM warehouse_pick").fetchone() == (9,)
    counts = warehouse.execute("SELECT status, count(*) FROM django_outbox_inboxmessage GROUP BY 1")
    assert dict(counts.fetchall()) == {"consumed": 9}
    warehouse.close()
    assert len(list((process.state_dir / "mails").iterdir())) >= 1


def test_ctrl_c_in_a_terminal_stops_everything(demo: Callable[..., DemoProcess]) -> None:
    process = demo(terminal=True)
    process.wait_for(r"2 x Teapot", START_SECONDS)
    assert len(process.left_over()) >= 6

    process.type("\x03")

    assert process.wait(STOP_SECONDS) == 128 + signal.SIGINT, process.output
    assert "Stopping everything" in process.output
    assert "Traceback" not in process.output
    assert process.left_over() == []


def test_sigterm_stops_everything(demo: Callable[..., DemoProcess]) -> None:
    process = demo()
    process.wait_for("1. Starting the services", START_SECONDS)

    process.process.send_signal(signal.SIGTERM)

    assert process.wait(STOP_SECONDS) == 128 + signal.SIGTERM, process.output
    assert process.left_over() == []


def test_a_killed_demo_takes_everything_with_it(demo: Callable[..., DemoProcess]) -> None:
    process = demo()
    process.wait_for(r"order 1 \(2 x Teapot\)", START_SECONDS)

    process.process.kill()

    wait_until(lambda: not process.left_over(), STOP_SECONDS, what="none of the demo's processes is left")
