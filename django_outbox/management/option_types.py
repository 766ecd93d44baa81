"""Types for argparse: they check a value and say what a valid one looks like."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django_outbox.exceptions import InvalidMessage
from django_outbox.models.validation import require_text
from django_outbox.operations.time_parsing import parse_age, parse_time


def number(least: float, kind: Callable[[str], Any] = int, *, most: float = 2**31 - 1) -> Callable[[str], Any]:
    """A number from ``least`` to ``most``."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not value >= least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least:g}")
        if value > most:
            raise argparse.ArgumentTypeError(f"{text!r} is too large; the maximum is {most:.15g}")
        return value

    return parse


def age(text: str) -> timedelta:
    """An age such as ``2h``."""
    try:
        return parse_age(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def time(text: str) -> str:
    """A date, a date with a time, or an age; returned as text, which ``Selection`` parses."""
    try:
        parse_time(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def text(given: str) -> str:
    """Text that brokers and databases can store: a command line may contain invalid UTF-8."""
    try:
        require_text("", given)
    except InvalidMessage as error:
        raise argparse.ArgumentTypeError(f"invalid value {given!r}: {error.reason}") from error
    return given
