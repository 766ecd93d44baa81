"""Starts watched processes by forking one that has imported everything and opened nothing.

Run as ``python -m tests.support.watched.zygote SOCKET``. Each connection to the socket brings one request and gets the
exit status of its process, as ``os.waitpid`` returns it.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from dataclasses import dataclass, field
from functools import reduce
from importlib import import_module
from multiprocessing.connection import Connection, Listener
from typing import Any

PATIENCE_SECONDS = 15.0


@dataclass
class Request:
    """A process to start.

    Attributes:
        work: a management command with its arguments, or the dotted path of a function with its arguments.
        outbox: settings of ``OUTBOX``; they replace those of ``settings``.
        constants: values for constants of modules, such as ``package.module:NAME``, so that a process need not wait for a minute to pass.
        output, steps: files for what the process prints, and for its steps.
        kill: the side and the name of the step at which it kills itself.
        label: names its sessions for the database server.
    """

    work: list[Any]
    outbox: dict[str, Any]
    output: str
    steps: str
    label: str
    constants: dict[str, Any] = field(default_factory=dict)
    kill: tuple[str, str] | None = None


def main(path: str) -> None:
    _import_everything()
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    with Listener(path, "AF_UNIX", backlog=64) as listener:
        print("ready", flush=True)
        while True:
            connection = listener.accept()
            if os.fork() == 0:
                _keep(connection)
            connection.close()


def _import_everything() -> None:
    """Do what each process would do first, as far as it needs neither database nor broker."""
    import django

    from django_outbox.brokers import calls

    # A broker that a busy machine keeps from answering is not away. Before others import it.
    calls.CONNECT_SECONDS = PATIENCE_SECONDS

    django.setup()
    from django.core.checks import run_checks
    from django.core.management import get_commands, load_command_class
    from django.db.migrations.loader import MigrationLoader

    import tests.support.watched.broker  # noqa: F401  # and the client library
    from django_outbox.handlers.registry import registry

    registry.load()
    for name in ("outbox_relay", "outbox_consume"):
        load_command_class(get_commands()[name], name)
    run_checks()
    MigrationLoader(None)


def _keep(connection: Connection) -> None:
    """Start the process of a request, and report its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request: Request = connection.recv()
    process = os.fork()
    if process == 0:
        connection.close()
        _run(request)
    connection.send(process)
    _, status = os.waitpid(process, 0)
    connection.send(status)
    os._exit(0)


def _run(request: Request) -> None:
    output = os.open(request.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(output, stream)
    code = 70
    try:
        code = _work(request)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


def _work(request: Request) -> int:
    from django.conf import settings
    from django.core.management import ManagementUtility
    from django.db import connections

    from tests.support.watched.database import watch_database
    from tests.support.watched.steps import watch

    broker = {**settings.OUTBOX["BROKER"], **request.outbox.pop("BROKER", {})}
    settings.OUTBOX = {**settings.OUTBOX, "BROKER": broker, **request.outbox}
    connections["default"].settings_dict["OPTIONS"] = {"application_name": request.label}
    for path, value in request.constants.items():
        module, _, names = path.partition(":")
        *owners, name = names.split(".")
        setattr(reduce(getattr, owners, import_module(module)), name, value)
    name, *arguments = request.work
    if "." not in name:
        watch_database()
        watch.begin(request.steps, request.kill)
        ManagementUtility(["manage.py", name, *map(str, arguments)]).execute()
        return 0
    module, _, function = name.rpartition(".")
    getattr(import_module(module), function)(*arguments)
    connections.close_all()
    return 0


if __name__ == "__main__":
    # As the module that others import, so that requests can be unpickled.
    from tests.support.watched import zygote

    zygote.main(sys.argv[1])
