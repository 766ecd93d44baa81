"""What may be deleted: what is over, and old enough; never what a handler has yet to handle."""

from __future__ import annotations

from datetime import timedelta

import pytest

from django_outbox.handlers.registry import Registry
from django_outbox.models import OutboxMessage
from django_outbox.state.retention import expiries
from tests.support.outbox import Status, make_message
from tests.support.overrides import outbox_settings

pytestmark = pytest.mark.django_db

NOTHING = timedelta(0)
AGES = {"consumed": None, "published": NOTHING, "dead": None, "inbox": None}


def published_that_may_go(handlers: Registry | None) -> list[str]:
    (outbox,) = expiries(AGES, handlers)
    expired = OutboxMessage.objects.filter(outbox.expired).order_by("id")
    return [f"{message.event_type} in {message.topic}" for message in expired]


@pytest.fixture(autouse=True)
def messages() -> None:
    for event_type, topic in (("order.created", "orders"), ("order.created", "other"), ("order.paid", "orders")):
        make_message(Status.PUBLISHED, event_type=event_type, topic=topic)


def registry(event_type: str | None = None, **options: str) -> Registry:
    handlers = Registry()
    if event_type:
        handlers.register(event_type, lambda event: None, **options)
    return handlers


ALL = ["order.created in orders", "order.created in other", "order.paid in orders"]


def test_what_nobody_here_handles_may_go() -> None:
    assert published_that_may_go(registry()) == ALL


def test_what_has_a_handler_here_never_goes_before_it_is_handled() -> None:
    assert published_that_may_go(registry("order.created")) == ALL[2:]


def test_a_handler_of_one_topic_keeps_what_is_in_that_topic() -> None:
    assert published_that_may_go(registry("order.created", topic="orders")) == ALL[1:]


def test_a_handler_of_the_main_group_by_name_counts() -> None:
    with outbox_settings(CONSUMER_GROUP="shop"):
        assert published_that_may_go(registry("order.created", group="shop")) == ALL[2:]


def test_a_group_beside_the_main_one_keeps_nothing_as_it_has_the_inbox() -> None:
    assert published_that_may_go(registry("order.created", group="reports")) == ALL


def test_all_is_kept_where_the_consumer_has_yet_to_give_up_what_is_unknown() -> None:
    with outbox_settings(UNKNOWN_EVENT="dead"):
        assert published_that_may_go(registry()) == []


def test_copies_of_dead_letters_wait_for_no_handler_unless_their_topic_is_read() -> None:
    """They have the type of what died, in a topic for others."""
    with outbox_settings(DEAD_LETTER_TOPIC="other"):
        assert published_that_may_go(registry("order.created")) == ALL[1:]
        assert published_that_may_go(registry("order.created", topic="other")) == [ALL[0], ALL[2]]
    with outbox_settings(DEAD_LETTER_TOPIC="other", UNKNOWN_EVENT="dead"):
        assert published_that_may_go(registry()) == ALL[1:2]
        assert published_that_may_go(registry("order.created", topic="other")) == []
    with outbox_settings(DEAD_LETTER_TOPIC="other", ROUTES={"order.*": "other"}):
        assert published_that_may_go(registry("order.created")) == ALL[2:]


def test_all_is_kept_if_the_handlers_are_not_known() -> None:
    assert published_that_may_go(None) == []


def test_tables_that_keep_everything_are_not_looked_at() -> None:
    assert expiries(dict.fromkeys(AGES), registry()) == []
    assert [each.ages for each in expiries({**AGES, "inbox": NOTHING, "dead": NOTHING}, registry())] == [
        {"published": NOTHING, "dead": NOTHING},
        {"inbox": NOTHING, "dead inbox": NOTHING},
    ]
