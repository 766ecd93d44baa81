"""The overview: what is stuck, since when and why comes first, and the page never hangs and stays cheap."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from django_outbox.admin import failures, panels
from django_outbox.admin.tables import INBOX, OUTBOX, TABLES
from django_outbox.brokers.base import TopicPartition
from django_outbox.brokers.memory import MemoryBroker
from django_outbox.conf import settings
from django_outbox.exceptions import HandlersNotImportable
from django_outbox.handlers.registry import Registry, registry
from django_outbox.models import Activity, MessageFailure, Worker
from django_outbox.models.fields import DatabaseNow
from django_outbox.operations import counts, lag
from django_outbox.operations.activity import throughput
from django_outbox.worker.heartbeat import period_of
from tests.support.inbox import make_received
from tests.support.outbox import Status, make_message
from tests.support.overrides import outbox_settings, own_broker
from tests.support.pages import (
    DEAD_LETTERS,
    MESSAGES,
    Login,
    act,
    action_url,
    content,
    make_dead,
    make_failure,
    page_of,
    url,
)
from tests.unit.operations.test_lag import Progress

pytestmark = pytest.mark.django_db

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture(autouse=True)
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A broker that answers at once; a test may say what."""
    monkeypatch.setattr(MemoryBroker, "progress", lambda self, topics, group: {}, raising=False)
    monkeypatch.setitem(lag.lag_of_groups.__kwdefaults__, "timeout", 30.0)

    def answers(answer: Any) -> None:
        stack.enter_context(own_broker())
        monkeypatch.setattr(MemoryBroker, "progress", answer)

    with ExitStack() as stack:
        stack.enter_context(own_broker())
        yield answers


def make_worker(kind: str, seen: timedelta = timedelta(0), **fields: Any) -> Worker:
    values = {"host": "h", "pid": 1, "version": "1", "state": "working", "last_seen_at": DatabaseNow() - seen, **fields}
    return Worker.objects.create(kind=kind, **values)


@pytest.fixture
def workers() -> None:
    make_worker("relay")
    for group in ("tests", "reports"):
        make_worker("consumer", group=group)


def findings(client: Client) -> list[tuple[str, str, str]]:
    response = client.get(url("overview"))
    assert response.status_code == 200
    return [(finding.level, finding.title, finding.text) for finding in response.context["notices"]]


def titles(client: Client) -> list[str]:
    return [title for _, title, _ in findings(client)]


# What is stuck


@pytest.mark.usefixtures("workers")
def test_all_is_well_when_nothing_is_stuck(admin_client: Client) -> None:
    for status in ("pending", "published", "consumed"):
        make_message(status)
    make_message(next_retry_at=DatabaseNow() + DAY, created_at=DatabaseNow() - DAY)  # delayed on purpose
    assert findings(admin_client) == [("good", "No problems", "No message is stuck or dead.")]


@pytest.mark.usefixtures("workers")
def test_dead_messages_are_told_with_age_cause_and_what_to_click(login: Login) -> None:
    client = login("retry")
    for _ in range(2):
        make_dead(fingerprint="ValueError in shop.ship")
    make_dead(fingerprint="Rejected")
    response = client.get(url("overview"))
    (finding,) = response.context["notices"]
    assert (finding.level, finding.title) == ("bad", "3 messages are dead")
    assert finding.text.endswith("Most often: ValueError in shop.ship (2).")
    assert [link.url for link in finding.links] == [url(DEAD_LETTERS), action_url("retry") + "?"]


@pytest.mark.usefixtures("workers")
def test_who_may_not_retry_is_not_offered_it(login: Login) -> None:
    make_dead()
    shown = content(login(), url("overview"))
    assert action_url("retry") not in shown
    assert action_url("delete") not in shown


@pytest.mark.usefixtures("workers")
def test_when_the_last_died_is_told_of_all_errors_and_not_only_of_the_most_frequent(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panels, "GROUPS", 1)
    for _ in range(2):
        make_dead(fingerprint="often", updated_at=DatabaseNow() - 3 * HOUR)
    make_dead(fingerprint="now", updated_at=DatabaseNow() - 5 * MINUTE)
    ((level, _, text),) = findings(admin_client)
    assert level == "bad"
    assert text == "The first died 3\xa0hours ago, the last 5\xa0minutes ago. Most often: often (2)."
    assert "1 more error</a>" in content(admin_client, url("overview"))


@pytest.mark.usefixtures("workers")
def test_one_dead_message_is_told_with_its_error(admin_client: Client) -> None:
    make_dead(fingerprint="ValueError in shop.ship", updated_at=DatabaseNow() - 5 * MINUTE)
    assert findings(admin_client) == [("bad", "1 message is dead", "It died 5\xa0minutes ago: ValueError in shop.ship")]


@pytest.mark.usefixtures("workers")
def test_what_died_long_ago_is_less_urgent(admin_client: Client) -> None:
    make_dead(updated_at=DatabaseNow() - 2 * HOUR)
    assert [level for level, _, _ in findings(admin_client)] == ["warn"]


def test_missing_workers_are_told_with_what_waits_for_them(admin_client: Client) -> None:
    make_message(next_retry_at=DatabaseNow() - 5 * MINUTE)
    make_message(Status.PUBLISHED, event_type="test.effect", published_at=DatabaseNow() - 3 * HOUR)
    make_worker("consumer", group="reports")
    relay, consumer = findings(admin_client)
    assert relay[:2] == ("bad", "No relay is running")
    assert relay[2].startswith("Messages have waited to be sent for 5\xa0minutes.")
    assert consumer[:2] == ("bad", f"No consumer of the group {settings.consumer_group} is running")
    assert consumer[2].startswith("Messages have waited for their handler for 3\xa0hours.")


@pytest.mark.usefixtures("workers")
def test_workers_that_are_behind_are_told(admin_client: Client) -> None:
    make_message(next_retry_at=DatabaseNow() - 5 * MINUTE)
    make_message(Status.PUBLISHED, event_type="test.effect", published_at=DatabaseNow() - 5 * MINUTE)
    assert titles(admin_client) == ["The relay is behind", "The consumer is behind"]


@pytest.mark.usefixtures("workers")
def test_workers_that_are_behind_are_told_with_why_and_what_to_do(admin_client: Client) -> None:
    make_message(next_retry_at=DatabaseNow() - 5 * MINUTE)
    make_message(Status.PUBLISHED, event_type="test.effect", published_at=DatabaseNow() - 5 * MINUTE)
    for (_, _, text), done in zip(findings(admin_client), ("sent", "handled"), strict=True):
        assert f"Running: h:1, but nothing was {done} at the last heartbeat. Check the log" in text


@pytest.mark.usefixtures("workers")
def test_a_topic_that_no_consumer_reads_is_told_and_no_consumer_blamed(admin_client: Client) -> None:
    late = DatabaseNow() - 5 * MINUTE
    make_message(Status.PUBLISHED, event_type="test.effect", topic="exports", published_at=late)
    response = admin_client.get(url("overview"))
    (finding,) = response.context["notices"]
    assert (finding.level, finding.title) == ("bad", "No consumer reads the topic exports")
    assert 'Add it to OUTBOX["ROUTES"]' in finding.text
    assert [link.url for link in finding.links] == [f"{url(MESSAGES)}?status=published&topic=exports"]
    make_message(Status.PUBLISHED, event_type="test.effect", published_at=late)
    assert titles(admin_client) == ["No consumer reads the topic exports", "The consumer is behind"]


@pytest.mark.usefixtures("workers")
def test_a_group_that_left_messages_in_the_inbox_is_told_although_no_handler_names_it(admin_client: Client) -> None:
    make_received(group="gone", next_retry_at=DatabaseNow() - 5 * MINUTE)
    (title,) = titles(admin_client)
    assert title == "No consumer of the group gone is running"


@pytest.mark.usefixtures("workers")
def test_what_nobody_here_handles_is_not_stuck(admin_client: Client) -> None:
    make_message(Status.PUBLISHED, event_type="for.others", published_at=DatabaseNow() - DAY)
    assert titles(admin_client) == ["No problems"]


@pytest.mark.usefixtures("workers")
def test_trouble_of_a_worker_is_told_in_its_words(admin_client: Client) -> None:
    make_worker("relay", host="b", pid=7, state="trouble", trouble="The broker: nobody is there")
    assert findings(admin_client) == [("bad", "A worker is in trouble: relay b:7", "The broker: nobody is there")]


@pytest.mark.usefixtures("workers")
def test_the_same_trouble_of_many_workers_is_told_once(admin_client: Client) -> None:
    for pid in range(1, 6):
        make_worker("relay", host="b", pid=pid, state="trouble", trouble="The broker: nobody is there")
    (title,) = titles(admin_client)
    assert title == "5 workers are in trouble: relay b:1, relay b:2, relay b:3, …"


def test_a_worker_that_is_silent_for_a_minute_is_lost(admin_client: Client) -> None:
    make_worker("consumer", group="reports")
    make_worker("relay", seen=50 * SECOND)
    make_worker("consumer", seen=61 * SECOND)
    assert titles(admin_client) == [
        f"No consumer of the group {settings.consumer_group} is running",
        "A worker disappeared: consumer h:1",
    ]
    shown = content(admin_client, url("overview"))
    assert [shown.count(f">{state}</span>") for state in ("lost", "silent", "working")] == [1, 1, 1]


def test_a_lost_worker_that_was_replaced_is_shown_as_lost_and_nothing_to_do(admin_client: Client) -> None:
    make_worker("relay", seen=HOUR, started_at=DatabaseNow() - 3 * HOUR)
    make_worker("consumer", group="reports")
    make_worker("consumer", group="tests", seen=HOUR, started_at=DatabaseNow() - 3 * HOUR)
    make_worker("consumer", group="tests", started_at=DatabaseNow() - 2 * HOUR)  # it was there all the time
    make_worker("relay", host="new", started_at=DatabaseNow() - HOUR / 2)
    assert titles(admin_client) == ["A worker disappeared: consumer h:1"]
    assert content(admin_client, url("overview")).count(">lost</span>") == 2


def test_a_service_that_only_publishes_needs_no_consumer(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_outbox.operations.topics.registry", Registry())
    make_worker("relay")
    assert titles(admin_client) == ["No problems"]


def test_a_service_that_only_consumes_needs_no_relay(admin_client: Client) -> None:
    make_worker("consumer", group="reports")
    make_worker("consumer")
    assert titles(admin_client) == ["No relay is running"]
    make_received("consumed")
    assert titles(admin_client) == ["No problems"]
    make_message()
    assert titles(admin_client) == ["No relay is running"]


@pytest.mark.usefixtures("workers")
def test_workers_are_listed_with_their_group_and_topics(admin_client: Client) -> None:
    make_worker("consumer", group="reports", topics="billing, orders")
    assert '<td class="outbox-wrap">reports<span class="outbox-sample">billing, orders</span></td>' in content(
        admin_client, url("overview")
    )


@pytest.mark.usefixtures("workers")
def test_lanes_are_shown_once_a_consumer_has_several(admin_client: Client) -> None:
    assert "In progress" not in content(admin_client, url("overview"))
    since = DatabaseNow() - 30 * SECOND
    make_worker("consumer", lanes=16, busy_lanes=9, in_progress=31, busy_since=since, busy_key="orders: <42>")
    shown = " ".join(content(admin_client, url("overview")).split())
    assert '<th scope="col">In progress when last seen</th>' in shown
    assert "<td>9 of 16 lanes" in shown
    assert "31 messages, one for 30 seconds (orders:<wbr> &lt;42&gt;)</span>" in shown.replace(
        "orders: ", "orders:<wbr> "
    )
    assert shown.count("<td>0 of 1 lane<") == 2
    assert "<td>-</td>" in shown  # the relay


@pytest.mark.usefixtures("workers")
def test_a_single_lane_that_is_stuck_is_shown(admin_client: Client) -> None:
    make_worker("consumer", busy_lanes=1, in_progress=1, busy_since=DatabaseNow() - 75 * SECOND)
    assert "1 message, one for 75 seconds</span>" in content(admin_client, url("overview"))


def test_a_worker_that_is_silent_for_a_day_is_forgotten(admin_client: Client) -> None:
    make_worker("relay", seen=25 * HOUR)
    assert "h:1" not in content(admin_client, url("overview"))


@pytest.mark.usefixtures("workers")
def test_a_message_that_keeps_failing_is_told(admin_client: Client) -> None:
    make_message(created_at=DatabaseNow() - DAY, next_retry_at=DatabaseNow() + DAY)  # delayed on purpose
    messages = [
        make_message(retry_count=failures, last_error="ValueError: boom\nTraceback", created_at=DatabaseNow() - HOUR)
        for failures in (1, 3, 4)
    ]
    for message in messages:
        make_failure(message)
    ((level, title, text),) = findings(admin_client)
    assert (level, title) == ("warn", "2 messages keep failing")
    assert text == (
        f"Message {messages[1].id} (order.created), written 1\xa0hour ago, has failed 3 of 20 times: ValueError: boom"
    )


@pytest.mark.usefixtures("workers")
def test_handlers_that_cannot_be_imported_are_told(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise HandlersNotImportable("shop.handlers cannot be imported")

    monkeypatch.setattr(registry, "load", fails)
    assert findings(admin_client)[0][:2] == ("bad", "Handlers cannot be imported")


# The broker


@pytest.mark.usefixtures("workers")
def test_lag_is_shown_by_partition(admin_client: Client, broker: Any) -> None:
    broker(lambda self, topics, group: {TopicPartition("outbox", 1): Progress(0, 12, 7)})
    shown = " ".join(content(admin_client, url("overview")).split())
    assert '<th scope="row">outbox 1</th><td class="outbox-number">7</td><td class="outbox-number">12</td>' in shown


@pytest.mark.usefixtures("workers")
def test_lag_is_shown_of_each_group(admin_client: Client, broker: Any) -> None:
    committed = {settings.consumer_group: 7, "reports": 3}
    broker(lambda self, topics, group: {TopicPartition("outbox", 1): Progress(0, 12, committed[group])})
    partitions = admin_client.get(url("overview")).context["partitions"]
    assert [(group, each.lag) for group, each in partitions] == [("reports", 9), (settings.consumer_group, 5)]


@pytest.mark.usefixtures("workers")
def test_page_comes_when_the_broker_does_not_answer(
    admin_client: Client, broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    monkeypatch.setitem(lag.lag_of_groups.__kwdefaults__, "timeout", 0.05)  # type: ignore[attr-defined]
    broker(lambda self, topics, group: never.wait(30) or {})
    try:
        assert titles(admin_client) == ["The broker does not answer"]
        assert "The broker does not answer." in content(admin_client, url("overview"))
    finally:
        never.set()


@pytest.mark.usefixtures("workers")
def test_wrong_settings_of_the_broker_do_not_break_the_page(admin_client: Client) -> None:
    with outbox_settings(BROKER={"BACKEND": "no.such.Backend"}):
        assert "No module named 'no'" in findings(admin_client)[0][2]


# Numbers


def test_unfinished_messages_are_counted_with_the_oldest(admin_client: Client) -> None:
    messages = [make_message(status) for status in Status.values for _ in range(2)]
    (panel,) = admin_client.get(url("overview")).context["panels"]
    assert {state.status: (state.count, state.oldest) for state in panel.statuses} == {
        "pending": (2, messages[0]),
        "published": (2, messages[2]),
        "dead": (2, messages[6]),
    }


def test_a_copy_of_a_dead_letter_waits_for_no_handler(admin_client: Client) -> None:
    since = timezone.now() - timedelta(hours=1)
    make_message(Status.PUBLISHED, event_type="test.effect", topic="shop.dead", published_at=since)
    for copies, waiting in ((None, True), ("shop.dead", False)):
        with outbox_settings(DEAD_LETTER_TOPIC=copies):
            (panel,) = admin_client.get(url("overview")).context["panels"]
        assert (panel.waiting is not None) is waiting


def test_what_has_no_handler_is_awaited_where_the_consumer_has_yet_to_call_it_dead(admin_client: Client) -> None:
    make_message(Status.PUBLISHED, event_type="for.others", published_at=timezone.now() - timedelta(hours=1))
    for unknown_event, waiting in (("ignore", False), ("dead", True)):
        with outbox_settings(UNKNOWN_EVENT=unknown_event):
            (panel,) = admin_client.get(url("overview")).context["panels"]
        assert (panel.waiting is not None) is waiting


def test_counting_has_a_bound(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "MOST_COUNTED", 3)
    for _ in range(5):
        make_message()
    assert "&gt; 3</dd>" in content(admin_client, url("overview"))


def test_throughput_is_what_workers_wrote_down(admin_client: Client) -> None:
    now = timezone.now()
    first = period_of(now) - timedelta(hours=24)
    rows = {-1: (100, 9), 0: (110, 4), 1: (150, 30), 142: (400, 7), 144: (500, 50)}
    for n, (last_id, consumed) in rows.items():
        Activity.objects.create(
            period=first + n * 10 * MINUTE,
            last_id=last_id,
            consumed=consumed,
            published=consumed + 1,
            inbox_received=consumed + 2,
            inbox_consumed=consumed + 3,
        )
    make_message(id=420)  # what the last whole period did not note
    found = throughput(OUTBOX.database, now)
    assert found.starts[-1] == period_of(now) - 10 * MINUTE
    assert (found.written[:3], found.consumed[:3]) == ([10, 40, 0], [4, 30, 0])
    assert (found.written[-2:], found.consumed[-2:]) == ([250, 20], [7, 0])
    assert sum(found.written) == 320
    assert (found.published[:2], found.inbox_received[:2]) == ([5, 31], [6, 32])
    assert found.inbox_consumed[:2] == [7, 33]


def test_throughput_of_nothing_is_nothing(admin_client: Client) -> None:
    make_message(id=420)
    assert sum(throughput(OUTBOX.database, timezone.now()).written) == 0


def test_what_was_written_before_the_first_worker_noted_it_counts(admin_client: Client) -> None:
    """As on a new installation: what was published must have been written."""
    now = timezone.now()
    for age in (35, 15):
        make_message(Status.PUBLISHED, created_at=DatabaseNow() - age * MINUTE)
    newest = make_message(created_at=DatabaseNow() - 15 * MINUTE).id
    Activity.objects.create(period=period_of(now) - 10 * MINUTE, last_id=newest, published=2)
    found = throughput(OUTBOX.database, now)
    assert (sum(found.written), sum(found.published)) == (3, 2)
    assert "written 3</li>" in content(admin_client, url("overview"))


def test_what_was_written_before_the_day_is_not_counted_when_nothing_noted_it() -> None:
    now = timezone.now()
    make_message(Status.CONSUMED, created_at=now - 3 * DAY)
    newest = make_message().id
    Activity.objects.create(period=period_of(now) - 10 * MINUTE, last_id=newest)
    assert sum(throughput(OUTBOX.database, now).written) == 0


def test_what_is_written_in_the_current_period_is_not_counted_before_its_end() -> None:
    now = timezone.now()
    make_message(created_at=period_of(now))
    assert sum(throughput(OUTBOX.database, now).written) == 0


def test_what_was_written_counts_although_no_worker_ran_when_the_day_began() -> None:
    now = timezone.now()
    start = period_of(now) - timedelta(hours=24)
    for period, last_id in ((start - 20 * MINUTE, 100), (start + 30 * MINUTE, 130), (start + HOUR, 150)):
        Activity.objects.create(period=period, last_id=last_id)
    assert sum(throughput(OUTBOX.database, now).written) == 50


def test_given_up_messages_of_outbox_and_inbox_are_counted_by_day() -> None:
    message, received = make_dead(), make_received("dead")
    for days, final in ((0, True), (0, True), (3, True), (3, False), (20, True)):
        for each in (message,) if days else (message, received):
            failure = make_failure(each, final=final)
            MessageFailure.objects.filter(id=failure.id).update(occurred_at=timezone.now() - days * DAY)
    make_failure(received, final=True)
    with timezone.override("UTC"):  # whose days all have 24 hours
        counts = list(failures.dead_by_day(TABLES, timezone.now()).values())
        of_outbox = list(failures.dead_by_day([OUTBOX], timezone.now()).values())
    assert (len(counts), counts[-1], counts[-4]) == (14, {OUTBOX: 2, INBOX: 3}, {OUTBOX: 1, INBOX: 0})
    assert sum(sum(count.values()) for count in counts) == 6
    assert of_outbox[-1] == {OUTBOX: 2}


def test_types_with_most_failures_are_those_of_a_day_of_both_tables() -> None:
    often, once = make_message(event_type="often"), make_message(event_type="once", retry_count=9)
    received = make_received(event_type="often")
    for message in (often, often, once):
        make_failure(message)
    last = make_failure(often)
    make_failure(received)
    MessageFailure.objects.filter(id=make_failure(once).id).update(occurred_at=timezone.now() - 2 * DAY)
    found = failures.failing_types(TABLES, timezone.now())
    assert [(each.table, each.event_type, each.failures, each.stuck, each.oldest_stuck) for each in found.types] == [
        (OUTBOX, "often", 3, 0, None),
        (INBOX, "often", 1, 0, None),
        (OUTBOX, "once", 1, 1, once.id),
    ]
    assert found.types[0].last == last.occurred_at
    assert not found.is_cut


def test_failing_types_look_at_a_bounded_number_of_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "FAILURES", 3)
    message = make_message()
    for _ in range(5):
        make_failure(message)
    found = failures.failing_types(TABLES, timezone.now())
    assert ([each.failures for each in found.types], found.is_cut) == ([3], True)
    MessageFailure.objects.filter(id__lte=MessageFailure.objects.latest("id").id - 3).update(
        occurred_at=timezone.now() - 2 * DAY
    )
    assert not failures.failing_types(TABLES, timezone.now()).is_cut


@pytest.mark.usefixtures("workers")
def test_estimate_of_rows_is_a_number_or_nothing() -> None:
    make_message()
    estimate = counts.rows_estimate(OUTBOX.model, OUTBOX.database)
    assert estimate is None or estimate >= 0


# The page


@pytest.mark.usefixtures("workers")
def test_page_costs_as_many_queries_however_much_there_is(login: Login, django_user_model: Any) -> None:
    client = login("retry", "delete")
    staff = django_user_model.objects.get(username="staff")
    staff.user_permissions.add(Permission.objects.get(codename="view_inboxmessage"))

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            content(client, url("overview"))
        return len(captured)

    def fill() -> None:
        for status in Status.values:
            message = make_message(status, event_type="test.effect", message_key="k", last_error="boom", retry_count=1)
            make_failure(message, final=True)
        for status in ("pending", "consumed", "dead"):
            received = make_received(status, event_type="test.effect", retry_count=3, last_error="boom")
            make_failure(received, final=True)
        make_dead(fingerprint=f"error {message.id}")
        make_worker("relay")
        act(client, "retry", make_dead())

    fill()
    queries()
    few = queries()
    for _ in range(10):
        fill()
    assert queries() == few <= 39


@pytest.mark.usefixtures("workers")
def test_page_counts_no_finished_messages(admin_client: Client) -> None:
    for status in Status.values:
        make_message(status)
    with CaptureQueriesContext(connection) as captured:
        content(admin_client, url("overview"))
    counts = [query["sql"] for query in captured if "COUNT(" in query["sql"] and "outboxmessage" in query["sql"]]
    if connection.vendor == "sqlite":  # its estimate is a count: SQLite is for development
        counts = [sql for sql in counts if "WHERE" in sql]
    assert counts
    assert all("status" in sql and "'consumed'" not in sql for sql in counts)


def test_page_is_reloaded_by_the_browser_for_who_watches(admin_client: Client) -> None:
    assert "Refresh" not in admin_client.get(url("overview"))
    watched = admin_client.get(url("overview") + "?watch=1")
    assert watched["Refresh"] == "10"
    assert "Refreshes every 10 seconds." in watched.content.decode()


def test_handlers_are_listed_and_not_called(admin_client: Client) -> None:
    shown = content(admin_client, url("overview"))
    assert "tests.support.app.handlers.fails_once" in shown.replace("<wbr>", "")


def test_overview_is_linked_from_the_index_of_the_app_and_the_lists(admin_client: Client) -> None:
    for page in (reverse("admin:app_list", args=["django_outbox"]), url(MESSAGES), url(DEAD_LETTERS)):
        assert url("overview") in content(admin_client, page).rpartition("content-start")[2]


def test_pages_have_no_inline_script_or_style(admin_client: Client) -> None:
    message = make_dead(message_key="k")
    make_failure(message)
    pages = (
        url("overview"),
        url(DEAD_LETTERS),
        url(MESSAGES),
        page_of(message),
        action_url("retry"),
        action_url("delete"),
    )
    for page in (*pages, action_url("edit", ids=str(message.id))):
        shown = content(admin_client, page)
        for inline in (" style=", "<style", " onclick=", "<script>"):
            assert inline not in shown, (page, inline)
