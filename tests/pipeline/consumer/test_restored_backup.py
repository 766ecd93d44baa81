"""The database is restored from a backup, while the records and offsets in Kafka are those of later."""

from __future__ import annotations

import pytest

from django_outbox.brokers.base import TopicPartition
from django_outbox.models import InboxMessage, OutboxMessage
from tests.support.inbox import received
from tests.support.outbox import Pipeline, make_message, put, row, statuses

pytestmark = pytest.mark.django_db

TOPICS = ("outbox", "elsewhere")


class Restored:
    """An outbox after a restore: ``sent`` and ``waiting`` are in the backup; ``lost`` and "late" are not."""

    def __init__(self) -> None:
        self.pipeline = Pipeline(topics=TOPICS)
        self.pipeline.on("order.created")
        make_message()
        self.pipeline.run()
        self.sent = make_message()
        self.pipeline.relay.run_once()
        self.waiting = make_message()
        outbox, inbox = [*OutboxMessage.objects.all()], [*InboxMessage.objects.all()]

        self.lost = make_message()
        make_message(event_type="order.exported")  # without a handler
        put(self.pipeline.broker, received(id="late"))
        self.pipeline.run()
        assert len(self.pipeline.handled) == 5
        self.pipeline.handled.clear()
        self.pipeline.restart_consumer()
        OutboxMessage.objects.all().delete()
        OutboxMessage.objects.bulk_create(outbox)
        InboxMessage.objects.all().delete()
        InboxMessage.objects.bulk_create(inbox)

    def reset_offsets(self) -> None:
        subscription = self.pipeline.broker.subscribe(TOPICS, "tests")
        assert subscription.commit({TopicPartition(topic, 0): 0 for topic in TOPICS})
        subscription.close()

    def handled(self) -> list[str]:
        self.pipeline.run()
        return sorted(str(event.id) for event in self.pipeline.handled)


@pytest.fixture
def restored() -> Restored:
    return Restored()


def test_with_reset_offsets_everything_is_handled_once_that_the_restored_database_has_not_seen(
    restored: Restored,
) -> None:
    restored.reset_offsets()
    events = [restored.sent.event_id, restored.waiting.event_id, "late"]
    assert restored.handled() == sorted(map(str, events))
    assert statuses() == ["consumed"] * 3


def test_without_events_of_other_services_are_missing(restored: Restored) -> None:
    assert restored.handled() == [str(restored.waiting.event_id)]
    assert row(restored.sent).status == "published", "the reconciler has it sent again"


def test_a_record_of_a_lost_message_is_not_taken_for_one_that_got_its_id(restored: Restored) -> None:
    new = make_message(id=restored.lost.id)
    restored.reset_offsets()
    assert str(new.event_id) in restored.handled()
    assert str(restored.lost.event_id) not in restored.handled()


def test_the_log_names_lost_messages_that_have_a_handler(restored: Restored, caplog: pytest.LogCaptureFixture) -> None:
    restored.reset_offsets()
    restored.handled()
    skipped = [record for record in caplog.records if "there is no outbox message" in record.getMessage()]
    assert [vars(record)["event_id"] for record in skipped] == [str(restored.lost.event_id)]
