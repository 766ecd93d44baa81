"""Look for counterexamples along the code's own branches, with Atheris, for as long as one likes.

    pip install atheris
    python -m tests.unit.fuzz.coverage_guided record -max_total_time=60

Targets: record, url, redaction. What follows is for libFuzzer (``-help=1`` tells). It ends at the first exception that is
not documented, and writes what caused it to a file ``crash-...``, which can be given instead of a time. Not part of any
test run: the properties beside this file are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import atheris  # type: ignore[import-not-found]  # optional, and of no use to other tests

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.support.settings")

with atheris.instrument_imports(include=["django_outbox", "json", "urllib"]):
    import django

    django.setup()
    from django.core.exceptions import ImproperlyConfigured

    from django_outbox.brokers.base import ReceivedRecord
    from django_outbox.brokers.url import parse_url
    from django_outbox.consumer.inbox.reader import Reader
    from django_outbox.events.parsing import identify
    from django_outbox.exceptions import UnreadableRecord
    from django_outbox.models import validation
    from django_outbox.observability.masking import Redaction

SECRET = "s3cret-and-no-word"
NAMES = [
    "ce_specversion",
    "ce_id",
    "ce_source",
    "ce_type",
    "ce_time",
    "ce_outboxid",
    "ce_outboxattempt",
    "content-type",
]


def record(data: Any) -> None:
    """Any record is an event that can be stored, or unreadable."""
    headers = []
    for _ in range(data.ConsumeIntInRange(0, 8)):
        known = data.ConsumeBool()
        name = data.PickValueInList(NAMES) if known else data.ConsumeUnicode(8)
        headers.append((name, data.ConsumeBytes(data.ConsumeIntInRange(0, 30))))
    key = data.ConsumeBytes(8) or None
    received = ReceivedRecord("orders", 0, 0, key, data.ConsumeBytes(data.remaining_bytes()), tuple(headers))
    for read in (identify, Reader(using="default", accepts=lambda *arguments: True, accepts_own=True).read):
        try:
            found = read(received)
        except UnreadableRecord as error:
            if len(str(error)) > 1000:
                raise RuntimeError("a reason that is no sentence") from error
        else:
            if (payload := getattr(found, "payload", None)) is not None:
                validation.json_payload(payload, using="default")


def url(data: Any) -> None:
    """Any text is a URL, or refused without a word of its login."""
    text = data.ConsumeUnicode(data.ConsumeIntInRange(0, 30)) + SECRET + data.ConsumeUnicode(data.remaining_bytes())
    try:
        shown = repr(parse_url(text))
    except ImproperlyConfigured as error:
        shown = str(error)
    if SECRET in shown:
        raise RuntimeError("a secret is shown")


def redaction(data: Any) -> None:
    """No error shows the value of a secret name."""
    hides = Redaction(["password"])
    secret, before = data.ConsumeUnicode(20), data.ConsumeUnicode(50)
    payload = {data.ConsumeUnicode(5): [{"Password": secret}], "password_2": {"name": SECRET}}
    shown = hides.in_texts(payload)(f"{before}{SECRET}{secret}")
    hides.mask(payload)
    if SECRET in shown:
        raise RuntimeError("a secret is shown")


TARGETS: dict[str, Callable[[Any], None]] = {"record": record, "url": url, "redaction": redaction}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m tests.unit.fuzz.coverage_guided {{{','.join(TARGETS)}}} [libFuzzer's arguments]")
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, lambda data: target(atheris.FuzzedDataProvider(data)))
    atheris.Fuzz()
