"""`--reload`: the new code handles the next message; code that cannot be loaded changes nothing; signals end it."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from django_outbox.management import reload
from django_outbox.management.reload import CodeWatch
from tests.support.processes import ROOT, Command, wait_until

Manage = Callable[..., Command]

HANDLERS = """
from django_outbox import handler
from tests.support.app.models import Effect

@handler("reload.test")
def effect(event):
    Effect.objects.create(name="{name}", event_id=event.id)
"""

# Django's reloader says which files it has seen: a change before that would pass unnoticed.
SETTINGS = """
from tests.support.settings import *

INSTALLED_APPS = [*INSTALLED_APPS, "reload_app"]
LOGGING = {
    "version": 1,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"django.utils.autoreload": {"level": "DEBUG", "handlers": ["console"], "propagate": False}},
}
"""


def wait_until_watched(worker: Command, file: Path, times: int) -> None:
    """Wait until as many processes, one after the other, have this file in sight."""
    wait_until(lambda: worker.output.count(f"File {file} first seen") == times, what=f"{file} seen {times} times")


class Project:
    """A project with one app, whose code a test changes."""

    def __init__(self, directory: Path) -> None:
        (directory / "reload_app").mkdir()
        (directory / "reload_app" / "__init__.py").touch()
        self.settings = directory / "reload_settings.py"
        self.settings.write_text(SETTINGS)
        self.handlers = directory / "reload_app" / "handlers.py"
        self.write(name="first")
        self.env = {
            "DJANGO_SETTINGS_MODULE": "reload_settings",
            "PYTHONPATH": f"{directory}:{ROOT}",
            "PYTHONDONTWRITEBYTECODE": "1",  # it would be taken for that of the next code, as seconds count
        }

    def write(self, source: str = HANDLERS, **values: str) -> None:
        self.handlers.write_text(source.format(**values) if values else source)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def handled(transactional_db: None) -> Callable[[], list[str]]:
    """Publish an event, relay it, and wait for what the handler calls itself."""
    from django.core.management import call_command
    from django.db import transaction

    from django_outbox import publish
    from tests.support.app.models import Effect

    def handled() -> list[str]:
        with transaction.atomic():
            message = publish("reload.test", {})
        call_command("outbox_relay", "--drain", "--create-topics", verbosity=0)
        wait_until(lambda: Effect.objects.filter(event_id=message.event_id).exists(), 60)
        return list(Effect.objects.filter(event_id=message.event_id).values_list("name", flat=True))

    return handled


def test_changed_code_handles_the_next_message(
    manage: Manage, project: Project, handled: Callable[[], list[str]]
) -> None:
    consumer = manage("outbox_consume", "--reload", env=project.env)
    assert handled() == ["first"]
    wait_until_watched(consumer, project.handlers, 1)
    pid = consumer.process.pid

    project.write(name="second")
    consumer.wait_for_line(r"handlers\.py has changed\. Restarting\.")
    consumer.wait_for_line(r"Consumer stopped\.")
    consumer.wait_for_line(r"Consumer of \S+ from \S+ in group \S+ started\.")
    assert handled() == ["second"]
    wait_until_watched(consumer, project.handlers, 2)

    project.write("def half(")
    consumer.wait_for_line(r"has changed but cannot be loaded\. The old code keeps running")
    consumer.wait_for_line(r"CommandError: reload_app\.handlers cannot be imported \(SyntaxError")
    assert handled() == ["second"]

    project.write(name="third")
    consumer.wait_for_line(r"Consumer of \S+ from \S+ in group \S+ started\.")
    assert handled() == ["third"]

    assert consumer.process.pid == pid
    assert consumer.stop(signal.SIGINT) == 0
    assert "Traceback" not in consumer.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["outbox_relay", "outbox_consume"])
def test_signal_ends_it_as_without_reload(
    manage: Manage, project: Project, command: str, number: signal.Signals
) -> None:
    worker = manage(command, "--reload", env=project.env)
    wait_until_watched(worker, project.settings, 1)
    assert worker.stop(number) == 0
    assert f"{number.name} received: finishing the work in hand." in worker.output
    assert " stopped." in worker.output


def test_relay_starts_anew_with_changed_settings(manage: Manage, project: Project) -> None:
    relay = manage("outbox_relay", "--reload", env=project.env)
    wait_until_watched(relay, project.settings, 1)
    project.settings.write_text(f"{SETTINGS}\nOUTBOX['SOURCE'] = 'renamed'\n")
    relay.wait_for_line(r"reload_settings\.py has changed\. Restarting\.")
    relay.wait_for_line(r"started\.")
    assert relay.stop() == 0


# What does not need a process


class Watched:
    """A reloader that reports what a test tells it to."""

    def __init__(self, *, restart: bool) -> None:
        self._restart = restart

    def notify_file_changed(self, path: Path) -> None:
        if self._restart:
            sys.exit(3)

    def run(self, main_thread: Any) -> None:
        self.notify_file_changed(Path("code.py"))


def watch(monkeypatch: pytest.MonkeyPatch, stop: Any, *, restart: bool = True, trial: str = "") -> CodeWatch:
    monkeypatch.setattr(reload.autoreload, "get_reloader", lambda: Watched(restart=restart))
    monkeypatch.setattr(reload.autoreload, "get_child_arguments", lambda: [sys.executable, "-c", trial])
    watch = CodeWatch(stop, logging.getLogger("django_outbox"), "--list")
    watch.thread.join(30)
    return watch


def test_change_that_needs_no_restart_changes_nothing(monkeypatch: pytest.MonkeyPatch, stop: Any) -> None:
    assert not watch(monkeypatch, stop, restart=False).changed
    assert not stop.requested


def test_change_after_a_signal_does_not_start_it_anew(monkeypatch: pytest.MonkeyPatch, stop: Any) -> None:
    stop.request()
    assert not watch(monkeypatch, stop, trial="raise SystemExit('must not run')").changed


def test_change_asks_the_worker_to_stop_if_the_code_can_be_loaded(monkeypatch: pytest.MonkeyPatch, stop: Any) -> None:
    assert not watch(monkeypatch, stop, trial="1 / 0").changed
    assert not stop.requested
    assert watch(monkeypatch, stop).changed
    assert stop.requested


def test_signal_while_the_code_is_tried_ends_it_for_good(monkeypatch: pytest.MonkeyPatch, stop: Any) -> None:
    def run(*args: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        stop.request()
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setattr(reload.subprocess, "run", run)
    assert not watch(monkeypatch, stop).changed
