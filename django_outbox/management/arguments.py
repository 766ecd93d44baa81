"""What options take, as types of argparse that say what is wrong."""

from __future__ import annotations

import argparse
from datetime import datetime, timedelta

from django_outbox.exceptions import InvalidMessage
from django_outbox.models.validation import require_text
from django_outbox.operations.time_parsing import parse_age, parse_time


def age(text: str) -> timedelta:
    """How long ago, such as ``2h``; a hundred years at most."""
    try:
        return parse_age(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def moment(text: str) -> datetime | timedelta:
    """A date, a date and a time, or how long ago."""
    try:
        return parse_time(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def text(given: str) -> str:
    """Text that brokers and databases take: from the command line comes what is no UTF-8 as well."""
    try:
        require_text("", given)
    except InvalidMessage as error:
        raise argparse.ArgumentTypeError(f"{given!r} cannot be: {error.reason}") from error
    return given
