"""``manage.py outbox_doctor``: finds problems of an installation and says how to fix them."""

from __future__ import annotations

import json
import sys
import textwrap
from typing import Any

from django.core.management.base import CommandParser

from django_outbox.management.base import OutboxCommand, logging_to
from django_outbox.management.option_types import number
from django_outbox.operations.counts import counted
from django_outbox.operations.doctor.base import Finding, Installation, Level
from django_outbox.operations.doctor.run import CHECKS, TIMEOUT_SECONDS, Result, run_checks

EXIT_CODES = {Level.OK: 0, Level.NOTE: 0, Level.WARNING: 1, Level.FAULT: 2}
NAME_WIDTH = max(len(check.name) for check in CHECKS)
TEXT_WIDTH = 100


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
        results = []
        with logging_to(self.stderr, 0):  # problems are reported as findings
            for result in run_checks(
                Installation(database, broker_timeout=timeout * 0.8), checks=chosen, timeout=timeout
            ):
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
        if not result.findings:
            self.stdout.write(_line(Level.OK, result, result.check.ok))
        for finding in sorted(result.findings, key=lambda each: -each.level):
            self.stdout.write(_line(finding.level, result, finding.summary), self._style(finding))
            for label, text in (("why", finding.why), ("do", finding.remedy)):
                if text:
                    self.stdout.write(_indented(label, text))

    def _style(self, finding: Finding) -> Any:
        return {Level.WARNING: self.style.WARNING, Level.FAULT: self.style.ERROR}.get(finding.level)


def _line(level: Level, result: Result, text: str) -> str:
    head = f"{level.word:<8} {result.check.name:<{NAME_WIDTH}}  "
    return textwrap.fill(
        text,
        len(head) + TEXT_WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _indented(label: str, text: str) -> str:
    margin = " " * (9 + NAME_WIDTH + 2)
    return textwrap.fill(
        text,
        len(margin) + TEXT_WIDTH,
        initial_indent=f"{margin}{label + ':':<5}",
        subsequent_indent=f"{margin}     ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _summary(results: list[Result]) -> str:
    counts = {level: sum(finding.level == level for r in results for finding in r.findings) for level in Level}
    words = [
        f"{counts[level]} {level.word}{'s' if counts[level] > 1 else ''}" for level in reversed(Level) if counts[level]
    ]
    return f"\n{counted(len(results), 'check')}: {', '.join(words) or 'no problems'}."


def _document(results: list[Result], worst: Level) -> dict[str, Any]:
    return {
        "level": worst.word,
        "examinations": [
            {
                "name": result.check.name,
                "level": result.level.word,
                "findings": [
                    {
                        "level": finding.level.word,
                        "summary": finding.summary,
                        "why": finding.why,
                        "remedy": finding.remedy,
                    }
                    for finding in result.findings
                ],
            }
            for result in results
        ],
    }
