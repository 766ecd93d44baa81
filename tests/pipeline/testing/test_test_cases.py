"""The kit in Django's test cases: with and without a transaction around the test, and functions that wait for a commit."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from asgiref.sync import sync_to_async
from django.db import transaction
from django.test import TestCase, TransactionTestCase

from django_outbox import publish
from django_outbox.brokers.memory import MemoryBroker
from django_outbox.conf import BrokerSettings
from django_outbox.testing import Outbox, OutboxTestMixin, drain
from tests.support.app.models import Effect


class Scenarios(OutboxTestMixin):
    """What must be the same in both kinds of test cases."""

    def test_from_publishing_to_the_effect(self) -> None:
        with transaction.atomic():
            publish("test.effect", {"order": 7}, key="7")
        self.assert_published("test.effect", key="7", payload__contains={"order": 7}, count=1)
        assert self.drain().consumed == 2
        assert Effect.objects.count() == 2

    def test_a_failure_is_retried(self) -> None:
        with self.captured_messages() as messages, transaction.atomic():
            publish("test.fails_once", 1)
        assert len(messages) == 1
        assert self.drain().failed == 1

    def test_a_dead_message_raises_the_error_of_its_handler(self) -> None:
        with transaction.atomic():
            publish("test.fails", 1, max_retry=2)
        with self.assertRaisesMessage(ArithmeticError, "this never works"):  # type: ignore[attr-defined]
            self.drain()

    def test_a_foreign_event(self) -> None:
        self.assert_nothing_published()
        assert self.deliver("test.effect", 1, source="billing", topic="outbox").consumed == 2

    def test_functions_that_wait_for_the_commit_are_called_once(self) -> None:
        called: list[int] = []
        with transaction.atomic():
            publish("test.effect", 1)
            transaction.on_commit(lambda: called.append(1))
        self.drain()
        self.drain()
        assert called == [1]

    def test_what_they_publish_is_handled(self) -> None:
        def publish_another() -> None:
            with transaction.atomic():
                publish("test.effect", 2)

        with transaction.atomic():
            transaction.on_commit(publish_another)
        assert self.drain().consumed == 2

    def test_functions_of_a_block_that_was_rolled_back_are_not_called(self) -> None:
        called: list[int] = []
        with transaction.atomic():
            publish("test.effect", 1)
            transaction.on_commit(lambda: called.append(1))
            transaction.set_rollback(True)
        assert self.drain().published == 0
        assert called == []

    async def test_an_async_test_calls_them_through_sync_to_async(self) -> None:
        def publish_one() -> None:
            with transaction.atomic():
                publish("test.effect", 1)

        await sync_to_async(publish_one)()
        assert (await sync_to_async(self.drain)()).consumed == 2

    def test_the_memory_broker_is_empty_at_the_beginning(self) -> None:
        self._use_broker()

    def test_the_memory_broker_is_empty_at_the_beginning_of_each(self) -> None:
        self._use_broker()

    def _use_broker(self) -> None:
        broker = MemoryBroker(BrokerSettings(url="memory://shared"))
        assert broker.missing_topics(["a"]) == set()
        assert MemoryBroker(BrokerSettings(url="memory://shared")).cluster is broker.cluster
        assert list(broker.cluster.partitions) == ["a"]
        broker.missing_topics(["b"])


class InATestCase(Scenarios, TestCase):
    from_class: ClassVar[list[int]] = []

    @classmethod
    def setUpTestData(cls) -> None:
        transaction.on_commit(lambda: cls.from_class.append(1))

    def test_functions_of_the_class_are_not_called(self) -> None:
        self.drain()
        assert self.from_class == []

    def test_django_still_captures_functions_that_were_called(self) -> None:
        called: list[int] = []
        with self.captureOnCommitCallbacks(execute=True) as captured:
            transaction.on_commit(lambda: called.append(1))
            self.drain()
            transaction.on_commit(lambda: called.append(2))
        assert called == [1, 2]
        assert len(captured) == 2

    def test_an_error_in_one_is_an_error_of_the_test(self) -> None:
        transaction.on_commit(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            self.drain()

    def test_an_error_in_a_robust_one_is_logged(self) -> None:
        transaction.on_commit(lambda: 1 / 0, robust=True)
        with self.assertLogs("django_outbox.testing", "ERROR"):
            self.drain()


class InATransactionTestCase(Scenarios, TransactionTestCase):
    pass


del Scenarios  # or it would be collected, too


@pytest.mark.django_db
@pytest.mark.parametrize("is_transactional", [False, True])
def test_functions_of_handlers_are_called_after_their_transaction(
    is_transactional: bool, handlers: Any, request: pytest.FixtureRequest
) -> None:
    if is_transactional:
        request.getfixturevalue("transactional_db")
    seen: list[str] = []

    def statuses_after_commit(event: Any) -> None:
        from tests.support.outbox import statuses

        transaction.on_commit(lambda: seen.extend(statuses()))

    handlers.register("order.created", statuses_after_commit)
    with transaction.atomic():
        publish("order.created", 1)
    drain()
    assert seen == ["consumed"]


def test_the_fixture_has_the_helpers_and_the_database(outbox: Outbox, handlers: Any) -> None:
    handlers.register("order.created", lambda event: Effect.objects.create(name="fixture", event_id=event.id))
    with transaction.atomic():
        publish("order.created", 1)
    outbox.assert_published("order.created")
    outbox.drain()
    assert Effect.objects.get().name == "fixture"


def test_the_fixture_goes_with_real_transactions(outbox: Outbox, transactional_db: None) -> None:
    assert not transaction.get_connection().in_atomic_block
    outbox.assert_nothing_published()
    assert outbox.drain().waiting == ()


@pytest.mark.parametrize("run", ["run", "debug"])
def test_test_cases_clear_the_memory_broker_without_pytest(run: str) -> None:
    seen: list[int] = []

    class Case(OutboxTestMixin):
        def runTest(self) -> None:  # noqa: N802  # unittest's name
            seen.append(len(MemoryBroker(settings).cluster.partitions))

    settings = BrokerSettings(url="memory://shared")
    MemoryBroker(settings).missing_topics(["a"])
    getattr(Case(), run)()
    assert seen == [0]


def test_without_access_to_the_database_pytest_django_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match="django_db"):
        drain()


@pytest.mark.parametrize("turn", [1, 2])
def test_pytest_clears_the_memory_broker_before_each_test(turn: int) -> None:
    broker = MemoryBroker(BrokerSettings(url="memory://shared"))
    assert not broker.cluster.partitions
    broker.missing_topics(["a"])
