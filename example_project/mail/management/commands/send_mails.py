"""Management command that sends the queued e-mails."""

import time
from argparse import ArgumentParser

from django.core.management.base import BaseCommand
from django.db import close_old_connections

from mail.sending import send_queued


class Command(BaseCommand):
    help = "Send the e-mails that the handlers have queued."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--every", type=float, metavar="SECONDS", help="keep running and check every SECONDS (default: check once)"
        )

    def handle(self, *, every: float | None, **options: object) -> None:
        while True:
            sent = send_queued()
            if sent:
                self.stdout.write(f"Sent: {sent}")
            if every is None:
                return
            close_old_connections()
            time.sleep(every)
