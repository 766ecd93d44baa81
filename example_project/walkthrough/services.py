"""Start the demo's processes, watch them, and stop them all."""

import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from . import janitor
from .errors import DemoFailed
from .ports import HOST, free_port
from .state_dir import StateDir, shown_path

MANAGE = Path(__file__).resolve().parent.parent / "manage.py"
SHOP, WAREHOUSE = "shop_project.settings", "warehouse.settings"
MAX_RETRY = 3
STOP_SECONDS = 8.0
TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class Service:
    """A process of the demo, which leads its own process group."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    runs_on: bool  # until the demo ends


class Services:
    """All processes that the demo has started, with the same environment."""

    def __init__(self, state_dir: StateDir, pause: Callable[[float], None], *, broker_port: int, web_port: int) -> None:
        self.state_dir = state_dir
        self.broker_port = free_port(broker_port)
        self.web_port = free_port(web_port)
        self.admin_password = secrets.token_hex(4)
        self._pause = pause
        self._running: list[Service] = []
        settings = {
            "DATABASE_URL": f"sqlite:///{quote(str(state_dir.database))}",
            "WAREHOUSE_DATABASE_URL": f"sqlite:///{quote(str(state_dir.warehouse_database))}",
            "KAFKA_URL": f"kafka://{HOST}:{self.broker_port}",
            "OUTBOX_MAX_RETRY": str(MAX_RETRY),
            "MAIL_DIR": str(state_dir.mails),
        }
        self._environment = {
            **os.environ,
            **settings,
            "DJANGO_SUPERUSER_PASSWORD": self.admin_password,
            "DEBUG": "true",
            "SECRET_KEY": secrets.token_urlsafe(32),
            "ALLOWED_HOSTS": f"{HOST},localhost",
            "PYTHONUNBUFFERED": "1",
        }
        lines = [f"export {name}={shlex.quote(text)}\n" for name, text in settings.items()]
        state_dir.environment.write_text("".join(lines))
        self._janitor = subprocess.Popen(
            [sys.executable, janitor.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def shop_url(self) -> str:
        return f"http://{HOST}:{self.web_port}/"

    def start(self, name: str, *arguments: str, settings: str = SHOP) -> None:
        """Start a management command that must run until the demo ends."""
        self._spawn(name, arguments, settings, runs_on=True)

    def run(self, *arguments: str, settings: str = SHOP, seconds: float = 30) -> str:
        """Run a management command and return its output."""
        name = arguments[0]
        service = self._spawn(name, arguments, settings, runs_on=False)
        deadline = time.monotonic() + seconds
        while service.process.poll() is None:
            self.check()
            if time.monotonic() > deadline:
                raise DemoFailed(f"manage.py {name} did not end within {seconds:.0f} s.", look_at=(name,))
            self._pause(0.05)
        self._forget(service)
        if service.process.returncode != 0:
            raise DemoFailed(f"manage.py {name} failed.", look_at=(name,))
        return service.log.read_text(errors="replace")

    def check(self) -> None:
        """Fail if a process has ended that must still run."""
        for service in self._running:
            if service.runs_on and service.process.poll() is not None:
                raise DemoFailed(
                    f"The {service.name} ended unexpectedly (exit code {service.process.returncode}).",
                    look_at=(service.name,),
                )

    def tail(self, name: str) -> str:
        """The last lines of a service's log, under the log's name."""
        log = self._log(name)
        lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:] if log.exists() else []
        shown = "\n".join(f"    {line}" for line in lines) or "    (empty)"
        return f"Last lines of {shown_path(log)}:\n{shown}"

    def stop(self) -> None:
        """Stop all processes, the broker last, so that its clients can close cleanly."""
        self._end([service for service in self._running if service.name != "broker"])
        self._end(list(self._running))
        stdin = self._janitor.stdin
        assert stdin is not None
        stdin.close()
        self._janitor.wait()

    def _spawn(self, name: str, arguments: tuple[str, ...], settings: str, *, runs_on: bool) -> Service:
        log = self._log(name)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, str(MANAGE), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**self._environment, "DJANGO_SETTINGS_MODULE": settings},
                start_new_session=True,
            )
        service = Service(name, process, log, runs_on)
        self._running.append(service)
        self._tell_janitor("+", service)
        return service

    def _end(self, services: list[Service]) -> None:
        left = list(services)
        for service in left:
            janitor.signal_group(service.process.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while left and time.monotonic() < deadline:
            time.sleep(0.02)
            left = [service for service in left if not _has_ended(service)]
        for service in left:
            janitor.signal_group(service.process.pid, signal.SIGKILL)
            service.process.wait()
        for service in services:
            self._forget(service)

    def _forget(self, service: Service) -> None:
        self._running.remove(service)
        self._tell_janitor("-", service)

    def _tell_janitor(self, sign: str, service: Service) -> None:
        stdin = self._janitor.stdin
        assert stdin is not None
        try:
            stdin.write(f"{sign}{service.process.pid}\n".encode())
            stdin.flush()
        except BrokenPipeError:  # it was killed; the demo still stops what it started
            pass

    def _log(self, name: str) -> Path:
        return self.state_dir.logs / f"{name}.log"


def typed_command(*arguments: str) -> str:
    """The management command as typed in the current directory."""
    python = Path(sys.executable)
    return shlex.join([shown_path(python), shown_path(MANAGE), *arguments])


def _has_ended(service: Service) -> bool:
    """Whether the process and all its children have ended."""
    return service.process.poll() is not None and not janitor.signal_group(service.process.pid, 0)
