"""The stepped clocks of a chaos run: a process sees another time, and waits no longer for it."""

import os
import subprocess
import sys
import time

import pytest

from tests.chaos import clock

STEP = 3600
TIMEOUT = 120
"""In seconds. A wait that the step lengthens would take about an hour."""

pytestmark = pytest.mark.skipif(not clock.works(), reason="needs a C compiler and glibc, both with their headers")


@pytest.fixture
def stepped(tmp_path):
    """What a stepped process prints, as a function of its source."""
    own = clock.Clock(clock.build(tmp_path), tmp_path / "clock")
    own.step(STEP)

    def run(source):
        command = [sys.executable, "-c", source]
        return subprocess.run(
            command, env=os.environ | own.env, check=True, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT
        ).stdout

    return run


def test_wall_clock_steps(stepped):
    before = time.time()
    assert float(stepped("import time; print(time.time())")) >= before + STEP


def test_monotonic_clock_does_not(stepped):
    before = time.monotonic()
    shown = float(stepped("import time; print(time.monotonic())"))
    assert before <= shown <= time.monotonic()


def test_client_library_waits_as_long_as_before(stepped):
    source = """
from confluent_kafka import Consumer
consumer = Consumer({"bootstrap.servers": "127.0.0.1:1", "group.id": "any", "log_level": 0})
print(consumer.poll(0.2))
"""
    assert stepped(source) == "None\n"


def test_wait_for_a_lock_ends(stepped):
    source = "import threading; lock = threading.Lock(); lock.acquire(); print(lock.acquire(timeout=0.2))"
    assert stepped(source) == "False\n"
