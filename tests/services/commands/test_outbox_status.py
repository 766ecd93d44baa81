"""outbox_status: how many messages are where, for people, for programs and for monitoring."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import pytest
from django.core.management import call_command

from django_outbox.management.commands import outbox_status
from django_outbox.operations import lag
from django_outbox.operations import status as outbox

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def forget_answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test asks a broker of its own, and does not mind a busy machine."""
    monkeypatch.setitem(outbox.full_status.__kwdefaults__, "timeout", 30.0)
    lag._queries.clear()
    yield
    lag._queries.clear()


def check(*arguments: str) -> tuple[int, str]:
    """The exit code, and what was printed."""
    out = io.StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("outbox_status", "--check", *arguments, stdout=out)
    return int(ended.value.code or 0), out.getvalue()


def reason(*arguments: str) -> tuple[int, str]:
    """The exit code, and the line without its performance data."""
    code, text = check(*arguments)
    assert text.count("\n") == 1
    return code, text.partition(" | ")[0]


# Watching


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--max-age"], "argument --max-age: expected one argument"),
        (["--max-age", "1m"], "argument --max-age: '1m' is not a number from 0"),
        (["--max-ages", "1"], "unrecognized arguments: --max-ages 1"),
        (["--database", "nowhere"], "argument --database: invalid choice: .+"),
    ],
)
def test_bad_usage_is_unknown_to_monitoring(arguments: list[str], reason: str) -> None:
    out = io.StringIO()
    with pytest.raises(SystemExit) as ended:
        outbox_status.Command(stdout=out).run_from_argv(["manage.py", "outbox_status", "--check", *arguments])
    assert_unknown((int(ended.value.code or 0), out.getvalue()), f"Error: {reason}")


def assert_unknown(found: tuple[int, str], reason: str) -> None:
    code, text = found
    assert code == 3
    assert re.fullmatch(rf"OUTBOX UNKNOWN - {reason}\n", text), text
