"""The parts of the demo that can be seen without running it."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.example.processes import EXAMPLE

sys.path.insert(0, str(EXAMPLE))

from walkthrough import janitor, table
from walkthrough.errors import DemoFailed, Stopped
from walkthrough.interrupts import SIGNALS, Interrupts
from walkthrough.ports import free_port
from walkthrough.screen import Screen
from walkthrough.shop import Message, Order, parse_orders
from walkthrough.state_dir import StateDir

pytestmark = [pytest.mark.databases("sqlite"), pytest.mark.brokers("tansu")]

PENDING = Message(7, "order.created", "pending", 0, 3, "")
PUBLISHED = replace(PENDING, status="published")
FAILED = replace(PENDING, retry_count=2, last_error="KeyError: 'grand-piano'")
DEAD = replace(FAILED, status="dead", retry_count=3)
CREATED = replace(PENDING, status="consumed")
SHIPPED = Message(8, "order.shipped", "consumed", 0, 3, "")


def order(*messages: Message, number: int = 4, mails_sent: int = 0) -> Order:
    return Order(number, "clara@example.com", "Grand piano", 1, mails_sent, messages)


# Reading the shop


def test_orders_are_read_oldest_first() -> None:
    message = {
        "id": 7,
        "type": "order.created",
        "status": "pending",
        "retry_count": 0,
        "max_retry": 3,
        "last_error": "",
    }
    shown = {"customer": "ada@example.com", "item": "Teapot", "quantity": 2, "mails_sent": 1, "messages": [message]}
    listed = [{"id": 2, **shown}, {"id": 1, **shown}]

    orders = parse_orders(json.dumps({"orders": listed}))

    assert [entry.id for entry in orders] == [1, 2]
    assert orders[0].messages == (PENDING,)
    assert orders[0].label == "2 x Teapot"


def test_the_reason_is_the_first_line_of_an_error() -> None:
    error = 'KeyError: 1\n  File "x.py"\n    ~~~^^^\n'
    assert replace(DEAD, last_error=error).reason == "KeyError: 1"
    assert PENDING.reason == ""


@pytest.mark.parametrize(
    ("entry", "done"),
    [
        (order(CREATED, SHIPPED, mails_sent=2), True),
        (order(CREATED, SHIPPED, mails_sent=1), False),
        (order(CREATED, replace(SHIPPED, status="published"), mails_sent=2), False),
        (order(CREATED), False),
        (order(), False),
    ],
)
def test_an_order_is_done_at_the_end_of_its_chain(entry: Order, done: bool) -> None:
    assert entry.done is done


# Lines of text


def test_changes_name_old_and_new_state() -> None:
    assert table.changes([], [order(PENDING)]) == ["order 4 (1 x Grand piano): order.created pending"]
    assert table.changes([order(PENDING)], [order(PUBLISHED)]) == [
        "order 4 (1 x Grand piano): order.created pending -> published"
    ]
    assert table.changes([order(FAILED)], [order(DEAD)]) == [
        "order 4 (1 x Grand piano): order.created pending -> dead, failed 3 of 3: KeyError: 'grand-piano'"
    ]


def test_nothing_new_is_no_line() -> None:
    assert table.changes([order(DEAD)], [order(DEAD)]) == []


def test_a_sent_mail_is_a_change() -> None:
    assert table.changes([order(CREATED)], [order(CREATED, mails_sent=1)]) == [
        "order 4 (1 x Grand piano): 1 e-mail sent"
    ]


def test_the_table_shows_the_reason_below_a_failed_order() -> None:
    lines = table.table([order(DEAD)], width=80, height=20, colour=False)

    assert [line.split() for line in lines] == [
        ["order", "order.created", "order.shipped", "e-mails"],
        ["4", "1", "x", "Grand", "piano", "dead,", "failed", "3", "of", "3", "-", "-"],
        ["KeyError:", "'grand-piano'"],
    ]


def test_the_table_keeps_to_its_size_and_drops_the_oldest() -> None:
    long_error = replace(DEAD, last_error="x" * 500)
    orders = [order(long_error, number=number) for number in range(1, 30)]

    lines = table.table(orders, width=80, height=10, colour=False)

    assert len(lines) <= 10
    assert all(len(line) < 80 for line in lines)
    assert " 29 " in lines[-2]


# The screen


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name, value in {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def test_without_a_terminal_each_change_is_a_plain_line() -> None:
    stream = io.StringIO()
    screen = Screen(stream)
    for message in (PENDING, PENDING, PUBLISHED):
        screen.show([order(message)])

    assert "\x1b" not in stream.getvalue()
    assert [line.partition(" s  ")[2] for line in stream.getvalue().splitlines()] == [
        "order 4 (1 x Grand piano): order.created pending",
        "order 4 (1 x Grand piano): order.created pending -> published",
    ]


def test_a_terminal_gets_the_table_redrawn_in_place(terminal: Terminal) -> None:
    screen = Screen(terminal)
    screen.show([order(PENDING)])
    screen.show([order(PUBLISHED)])

    before, erase, after = terminal.getvalue().partition("\x1b[3F\x1b[J")
    assert erase, "three lines (an empty one, the head, the order) are drawn over"
    assert "\x1b[33mpending" in before
    assert "\x1b[36mpublished" in after


def test_an_unchanged_table_is_not_drawn_again(terminal: Terminal) -> None:
    screen = Screen(terminal)
    screen.show([order(PENDING)])
    drawn = terminal.getvalue()
    screen.show([order(PENDING)])

    assert terminal.getvalue() == drawn


def test_no_color_is_respected(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen(terminal)
    screen.heading("1. Starting")
    screen.show([order(DEAD)])

    assert "\x1b[" not in terminal.getvalue()


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("COLUMNS", "60"), ("LINES", "8")])
def test_a_terminal_that_cannot_hold_the_table_gets_lines(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    Screen(terminal).show([order(PENDING)])

    assert "order 4 (1 x Grand piano): order.created pending\n" in terminal.getvalue()


# Ports, folders, signals, processes


def test_a_taken_port_is_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        assert free_port(taken) != taken


def test_a_free_port_is_taken_as_preferred() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert free_port(port) == port


def test_no_preference_is_any_free_port() -> None:
    assert free_port(0) > 0


def test_what_an_earlier_demo_left_is_removed(tmp_path: Path) -> None:
    earlier = StateDir(tmp_path)
    earlier.database.write_text("old")
    (earlier.logs / "relay.log").write_text("old")
    earlier.release()

    StateDir(tmp_path).release()

    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.lock", "logs", "mails"]


def test_a_foreign_folder_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")

    with pytest.raises(DemoFailed, match="not from an earlier demo"):
        StateDir(tmp_path)

    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_two_demos_do_not_share_a_folder(tmp_path: Path) -> None:
    first = StateDir(tmp_path)
    first.database.write_text("in use")

    with pytest.raises(DemoFailed, match="Another demo is running"):
        StateDir(tmp_path)

    assert first.database.read_text() == "in use"
    first.release()


@pytest.fixture
def signals_as_they_were() -> Iterator[None]:
    handlers = {signum: signal.signal(signum, signal.SIG_DFL) for signum in SIGNALS}  # nohup ignores SIGHUP
    yield
    for signum, action in handlers.items():
        signal.signal(signum, action)


@pytest.mark.usefixtures("signals_as_they_were")
@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
def test_a_signal_ends_the_pause(signum: signal.Signals) -> None:
    with Interrupts() as interrupts:
        interrupts.pause(0)
        os.kill(os.getpid(), signum)

        with pytest.raises(Stopped) as stopped:
            interrupts.pause(60)

    assert stopped.value.exit_code == 128 + signum


def test_a_group_that_ignores_the_polite_signal_is_killed() -> None:
    stubborn = subprocess.Popen(
        ["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert stubborn.stdout is not None
    with stubborn.stdout as output:
        output.readline()

    started = time.monotonic()
    janitor.end_groups({stubborn.pid}, grace_seconds=0.3)

    assert stubborn.wait(10) == -signal.SIGKILL
    assert time.monotonic() - started < 20


def test_a_group_that_is_gone_already_is_no_trouble() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    gone.wait()

    janitor.end_groups({gone.pid})
