"""What all commands share: errors are sentences, and the log goes where and as far as it was asked to."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.support.processes import Command

Manage = Callable[..., Command]


@pytest.mark.parametrize(
    ("verbosity", "seen", "not_seen"),
    [
        (0, r"\A\Z", r"."),
        (1, r"INFO Relay from default to kafka://\S+ started\.\n.* INFO Relay stopped\.", r"kafka\."),
        (2, r"INFO Relay from default", r"kafka\."),
        (3, r"INFO Relay from default", r"Traceback"),
    ],
)
def test_real_command_says_as_much_as_it_was_asked_to(manage: Manage, verbosity: int, seen: str, not_seen: str) -> None:
    relay = manage("outbox_relay", "--drain", "--verbosity", verbosity)
    assert relay.wait() == 0
    assert re.search(seen, relay.output)
    assert not re.search(not_seen, relay.output)


# Errors
