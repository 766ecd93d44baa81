"""HANDLER_TIMEOUT in real processes: a handler that takes too long ends its process, which logs which one it was."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, io, re, sys, threading, time
from django.conf import settings
settings.configure(OUTBOX={{"SOURCE": "shop", "HANDLER_TIMEOUT": {seconds}}})
from django_outbox.handlers import timeout as deadline
from django_outbox.events.event import Event
from django_outbox.handlers.handler import Handler
deadline.GRACE_SECONDS = {grace}

def sleeps(event):
    threading.Event().wait()

def burns(event):
    re.match("(a+)+$", "a" * 64 + "b")

def counts(event):
    while True: pass

def dives(event, depth=500):
    return dives(event, depth - 1) if depth else sleeps(event)

async def awaits(event):
    await asyncio.Event().wait()

def quick(event):
    pass

def handle(function):
    Handler("order.created", function, None, None)(Event(type="order.created", id="4711"))

{body}
"""


def run(body: str, *, seconds: float = 0.2, grace: float = 20) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body, seconds=seconds, grace=grace)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def sentence(name: str) -> str:
    return (
        f'OUTBOX["HANDLER_TIMEOUT"] ended the process: handler __main__.{name} with event 4711 (order.created) took '
        f"longer than 0.2 s. The message is delivered again after the next start, MAX_DELIVERIES times at most."
    )


def test_the_log_record_says_which_event_it_was() -> None:
    ended = run('import logging; logging.basicConfig(format="%(action)s: %(event_id)s, %(attempt)s")\nhandle(sleeps)')
    assert "timeout: 4711, 0" in ended.stderr


def test_process_lives_on_after_handlers_that_were_in_time() -> None:
    program = run(
        "import contextlib, faulthandler\n"
        "def raises(error):\n"
        "    def fails(event): raise error\n"
        "    return fails\n"
        "handle(quick)\n"
        "for error in (LookupError, KeyboardInterrupt, SystemExit):\n"
        "    with contextlib.suppress(error): handle(raises(error))\n"
        "def no_timer(*arguments, **options): raise RuntimeError\n"
        "faulthandler.dump_traceback_later = no_timer\n"
        "with contextlib.suppress(RuntimeError): handle(quick)\n"
        "threading.Event().wait(5)  # longer than all would take to end it\n"
        "print('alive')",
        seconds=2,
        grace=0.5,
    )
    assert (program.returncode, program.stdout, program.stderr) == (0, "alive\n", "")


def test_a_forked_process_has_a_deadline_too() -> None:
    program = run(
        "import os, warnings\n"
        "warnings.simplefilter('ignore')  # of a fork beside threads\n"
        "handle(quick)\n"
        "child = os.fork()\n"
        "if child: print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "else: handle(sleeps)"
    )
    assert program.stdout == "1\n"
    assert program.stderr.startswith(sentence("sleeps") + "\n")


@pytest.mark.parametrize(
    ("name", "stood_in"), [("sleeps", "sleeps"), ("awaits", "_run_once"), ("counts", "counts"), ("dives", "sleeps")]
)
def test_handler_that_takes_too_long_ends_the_process_and_the_log_says_which(name: str, stood_in: str) -> None:
    program = run(f"handle({name})")
    assert program.returncode == 1
    assert program.stderr.startswith(sentence(name) + "\n")
    assert f" in {stood_in}\n" in program.stderr


def test_handler_that_keeps_the_interpreter_to_itself_ends_the_process_and_the_stack_says_which() -> None:
    program = run("handle(burns)", grace=0.5)
    assert program.returncode == 1
    assert program.stderr.startswith("Timeout (0:00:00.700000)!\n")
    assert "in burns\n" in program.stderr
    assert f"in {sentence('burns')}\n" in program.stderr


@pytest.mark.parametrize("stderr", ["io.StringIO()", "None"])
@pytest.mark.parametrize("name", ["sleeps", "burns"])
def test_it_works_where_stderr_is_no_file(name: str, stderr: str) -> None:
    program = run(f"sys.stderr = {stderr}\nhandle({name})", grace=0.5)
    assert program.returncode == 1
    assert sentence(name) in program.stderr


def test_a_log_that_blocks_does_not_keep_the_process_alive() -> None:
    program = run(
        "import logging\n"
        "class Blocks(logging.Handler):\n"
        "    def emit(self, record): threading.Event().wait()\n"
        "logging.getLogger('django_outbox').addHandler(Blocks())\n"
        "handle(sleeps)",
        grace=0.5,
    )
    assert program.returncode == 1
    assert sentence("sleeps") in program.stderr
