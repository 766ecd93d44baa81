"""``manage.py outbox_doctor``: finds problems of an installation and says how to fix them."""

from __future__ import annotations

import json
import sys
import textwrap
from collections import Counter
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandParser

from django_outbox.management.base import OutboxCommand, logging_to
from django_outbox.management.option_types import number
from django_outbox.operations.counts import counted
from django_outbox.operations.doctor.base import Finding, Installation, Level
from django_outbox.operations.doctor.run import CHECKS, TIMEOUT_SECONDS, Result, run_checks

EXIT_CODES = {Level.OK: 0, Level.NOTE: 0, Level.WARNING: 1, Level.FAULT: 2}
NAME_WIDTH = max(len(check.name) for check in CHECKS)
LINE_WIDTH = NAME_WIDTH + 111


class Command(OutboxCommand):
    help = (
        "Check this installation: database, indexes, vacuum, sessions, broker, topics, workers, handlers, settings. "
        "Reports each problem with its consequence and the command or setting that fixes it. Changes nothing, and no "
        "check takes longer than --timeout. Exit code: 0 no problems, or only notes; 1 warnings; 2 faults."
    )
    # One of the doctor's checks runs the system checks.
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        names = [check.name for check in CHECKS]
        parser.add_argument("--json", action="store_true", help="Print JSON.")
        parser.add_argument(
            "--only", nargs="+", choices=names, metavar="NAME", help=f"Run only these checks: {', '.join(names)}."
        )
        parser.add_argument(
            "--no-broker", action="store_false", dest="broker", help="Skip checks that need the broker."
        )
        parser.add_argument(
            "--fail-on",
            choices=["warning", "fault", "never"],
            default="warning",
            help="The lowest level at which the exit code is not 0 (default: warning).",
        )
        parser.add_argument(
            "--timeout",
            type=number(0.1, float, most=600),
            default=TIMEOUT_SECONDS,
            metavar="S",
            help="Seconds that each check may take (default: 10).",
        )

    def handle(
        self, *, database: str, only: list[str] | None, broker: bool, fail_on: str, timeout: float, **options: Any
    ) -> None:
        chosen = [
            check for check in CHECKS if (only is None or check.name in only) and (broker or not check.needs_broker)
        ]
        as_json = bool(options["json"])
        installation = Installation(database, broker_timeout=timeout * 0.8)
        results = []
        with logging_to(self.stderr, 0):  # problems are reported as findings
            for result in run_checks(installation, checks=chosen, timeout=timeout):
                results.append(result)
                if not as_json:
                    self._print(result)
        worst = max((result.level for result in results), default=Level.OK)
        if as_json:
            self.stdout.write(json.dumps(_document(results, worst), indent=2))
        else:
            self.stdout.write(_summary(results))
        if fail_on != "never" and worst >= Level[fail_on.upper()]:
            sys.exit(EXIT_CODES[worst])

    def _print(self, result: Result) -> None:
        """Print the result of one check as soon as it is known."""
        styles = {Level.WARNING: self.style.WARNING, Level.FAULT: self.style.ERROR}
        for finding in sorted(result.findings, key=lambda each: -each.level) or [Finding(Level.OK, result.check.ok)]:
            head = f"{finding.level.word:<8} {result.check.name:<{NAME_WIDTH}}  "
            self.stdout.write(_wrapped(head, finding.summary), styles.get(finding.level))
            for label, text in (("why:", finding.why), ("do:", finding.remedy)):
                if text:
                    self.stdout.write(_wrapped(f"{'':{len(head)}}{label:<5}", text))


def _wrapped(head: str, text: str) -> str:
    return textwrap.fill(
        text,
        LINE_WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _summary(results: list[Result]) -> str:
    counts = Counter(finding.level for result in results for finding in result.findings)
    words = [counted(counts[level], level.word) for level in sorted(counts, reverse=True)]
    return f"\n{counted(len(results), 'check')}: {', '.join(words) or 'no problems'}."


def _document(results: list[Result], worst: Level) -> dict[str, Any]:
    return {
        "level": worst.word,
        "examinations": [
            {
                "name": result.check.name,
                "level": result.level.word,
                "findings": [asdict(finding) | {"level": finding.level.word} for finding in result.findings],
            }
            for result in results
        ],
    }
