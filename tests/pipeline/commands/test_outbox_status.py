"""outbox_status: how many messages are where, for people, for programs and for monitoring."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, ProgrammingError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_outbox.brokers.base import Record, TopicPartition
from django_outbox.brokers.loading import get_broker
from django_outbox.brokers.memory import MemoryBroker
from django_outbox.conf import settings
from django_outbox.exceptions import BrokerUnavailable
from django_outbox.management.commands import outbox_status
from django_outbox.models import Activity, OutboxMessage, Worker
from django_outbox.models.fields import DatabaseNow
from django_outbox.operations import counts
from django_outbox.operations import status as outbox
from django_outbox.worker.heartbeat import period_of
from tests.support.inbox import make_received
from tests.support.outbox import Status, make_message
from tests.support.overrides import outbox_settings, own_broker

pytestmark = pytest.mark.django_db

KEYS = [
    "pending",
    "published",
    "consumed",
    "dead",
    "oldest_pending_seconds",
    "oldest_published_seconds",
    "oldest_dead_seconds",
]
HANDLED = "test.effect"  # of tests.support.app


@pytest.fixture(autouse=True)
def forget_answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test asks a broker of its own, and does not mind a busy machine."""
    monkeypatch.setitem(outbox.full_status.__kwdefaults__, "timeout", 30.0)
    with own_broker():
        yield


def status(*arguments: str) -> str:
    out = io.StringIO()
    call_command("outbox_status", *arguments, stdout=out)
    return out.getvalue()


def status_json(*arguments: str) -> dict[str, Any]:
    return json.loads(status("--json", *arguments))


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


def performance(*arguments: str) -> dict[str, str]:
    _, text = check(*arguments)
    return dict(each.split("=") for each in text.partition(" | ")[2].split())


def make_messages(**counts: int) -> None:
    for name, count in counts.items():
        for _ in range(count):
            make_message(name)


def ago(seconds: float) -> Any:
    return DatabaseNow() - timedelta(seconds=seconds)


def make_late(state: str, seconds: float, **fields: Any) -> OutboxMessage:
    """Written, due and sent so long ago."""
    since = {"next_retry_at": ago(seconds)} if state == Status.PENDING else {"published_at": ago(seconds)}
    return make_message(state, event_type=HANDLED, created_at=ago(seconds), **since, **fields)


def put_records(count: int, *, group: str, committed: int) -> None:
    """Let the broker hold so many records of the topic, of which the group has read some."""
    broker = get_broker(settings.broker)
    broker.create_topics(["outbox"], partitions=1, replication=1)
    broker.producer(1).send([Record("outbox", b"k", b"{}")] * count, 1)
    member = broker.subscribe(["outbox"], group)
    member.commit({TopicPartition("outbox", 0): committed})
    member.close()


# For people


def test_plain_status_is_a_table_of_states() -> None:
    make_messages(published=2, dead=3)
    make_message(next_retry_at=ago(-3600))
    lines = status().splitlines()
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["pending", "1"],
        ["published", "2"],
        ["consumed", "0"],
        ["dead", "3"],
    ]
    assert lines[5].startswith("the next is due in ")


def test_plain_status_of_an_empty_outbox_is_short() -> None:
    lines = status("--no-broker").splitlines()
    assert [line.split() for line in lines[1:5]] == [
        ["pending", "0", "-", "-"],
        ["published", "0", "-", "-"],
        ["consumed", "0"],
        ["dead", "0", "-"],
    ]
    assert lines[5:] == [
        "",
        "No relay or consumer is running. Start them: manage.py outbox_relay, manage.py outbox_consume",
    ]


def test_plain_status_names_topics_retries_workers_and_lag() -> None:
    make_message(
        topic="orders", retry_count=3, next_retry_at=ago(-100), fingerprint="ValueError in shop.ship", message_key="42"
    )
    Worker.objects.create(kind="relay", host="web-1", pid=77, version="1.2", rate=4.5, state="trouble", trouble="Oh!")
    Worker.objects.create(kind="consumer", group="reports", host="web-1", pid=78, version="1.2", state="working")
    put_records(5, group="tests", committed=2)
    text = status()
    assert re.search(r"^orders +1 ", text, re.M)
    assert re.search(r"^outbox \d+ +order.created +orders +3 of 20 +1 min \d+ s +ValueError in shop.ship$", text, re.M)
    assert re.search(r"^relay web-1:77 +- +trouble +4.5 +.* s ago +1.2 +Oh!$", text, re.M)
    assert re.search(r"^consumer web-1:78 +reports +working +0.0 +.* s ago +1.2", text, re.M)
    assert "Group tests is 3 records behind, in 1 partition." in text
    assert re.search(r"^outbox +0 +2 +5 +3$", text, re.M)


def make_consumer(pid: int, **fields: Any) -> Worker:
    return Worker.objects.create(
        kind="consumer", host="web-1", pid=pid, version="1.2", state="working", last_seen_at=DatabaseNow(), **fields
    )


def test_lanes_are_shown_with_what_they_handle_once_a_consumer_has_several() -> None:
    make_consumer(1, busy_lanes=1, in_progress=3, busy_since=ago(5), busy_key="orders: 1")
    assert "IN PROGRESS" not in status("--no-broker")
    make_consumer(2, lanes=16, busy_lanes=9, in_progress=31, busy_since=ago(30), busy_key="orders: 42")
    make_consumer(3, lanes=16)
    Worker.objects.create(kind="relay", host="web-1", pid=4, version="1.2", state="working", trouble="Oh!")
    text = status("--no-broker")
    assert re.search(r"VERSION +IN PROGRESS WHEN LAST SEEN +TROUBLE$", text, re.M)
    assert re.search(r" 1.2 +1 of 1 lane busy, 3 messages, one for 5.\d s with orders: 1$", text, re.M)
    assert re.search(r" 1.2 +9 of 16 lanes busy, 31 messages, one for 30 s with orders: 42$", text, re.M)
    assert re.search(r"web-1:3 .* 1.2 +0 of 16 lanes busy$", text, re.M)
    assert re.search(r"relay .* 1.2 +- +Oh!$", text, re.M)


def test_a_single_lane_that_is_stuck_is_shown() -> None:
    make_consumer(1, busy_lanes=1, in_progress=1, busy_since=ago(75))
    assert re.search(r" 1 of 1 lane busy, 1 message, one for 1 min 15 s$", status("--no-broker"), re.M)


def test_json_says_what_lanes_handled_at_the_last_heartbeat() -> None:
    make_consumer(1, lanes=16, busy_lanes=9, in_progress=31, busy_since=ago(30), busy_key="orders: 42")
    Worker.objects.update(last_seen_at=DatabaseNow() - timedelta(seconds=10))
    (found,) = status_json("--no-broker")["workers"]
    assert (found["lanes"], found["busy_lanes"], found["in_progress"]) == (16, 9, 31)
    assert (found["busy_seconds"], found["busy_key"]) == (pytest.approx(20, abs=1), "orders: 42")


def test_each_consumer_group_is_named() -> None:
    text = status()
    for group in ("tests", "reports"):
        assert f"Group {group} has no topics to read yet." in text
    Worker.objects.create(kind="consumer", group="reports", host="web-1", pid=78, version="1", state="working")
    assert [worker["group"] for worker in status_json()["workers"]] == ["reports"]


def test_plain_status_shows_names_that_steer_no_terminal() -> None:
    make_received(event_type="odd\x1b[2J\ntype", retry_count=1, next_retry_at=ago(-100))
    text = status("--no-broker")
    assert all(line.isprintable() for line in text.splitlines())
    assert r"odd\x1b[2J type" in text


def test_plain_status_shows_the_inbox_once_it_holds_anything() -> None:
    assert "INBOX" not in status("--no-broker")
    make_received("dead")
    text = status("--no-broker")
    assert re.search(r"^INBOX .*\npending +0 +- +-\nconsumed +0\ndead +1$", text, re.M)


def test_a_broker_that_does_not_answer_is_told_and_the_rest_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(self: Any, topics: Any, group: str) -> Any:
        raise BrokerUnavailable("Nobody is there.")

    monkeypatch.setattr(MemoryBroker, "progress", away)
    make_messages(dead=1)
    text = status()
    assert "Lag of the consumer groups: unknown. Nobody is there." in text
    assert re.search(r"^dead +1", text, re.M)


# For programs


def test_json_has_these_keys() -> None:
    document = status_json()
    assert list(document) == [
        "outbox",
        "inbox",
        "topics",
        "unread_topics",
        "pauses",
        "retries",
        "rates",
        "workers",
        "lag",
        "debezium",
    ]
    more = ["consumed_is_estimate", "due", "longest_due_seconds", "next_due_seconds"]
    assert list(document["outbox"]) == [*KEYS, *more, "longest_awaited_seconds"]
    assert list(document["inbox"]) == ["pending", "consumed", "dead", "oldest_pending_seconds", *more]


def test_json_of_an_empty_outbox() -> None:
    found = status_json("--no-broker")
    assert {key: found["outbox"][key] for key in KEYS} == {**dict.fromkeys(KEYS[:4], 0), **dict.fromkeys(KEYS[4:])}
    assert (found["topics"], found["retries"], found["workers"], found["lag"]) == ([], [], [], None)
    assert found["debezium"] is None


def test_json_counts_by_state() -> None:
    make_messages(pending=1, published=2, consumed=3, dead=4)
    found = status_json()["outbox"]
    assert [found[name] for name in KEYS[:4]] == [1, 2, 3, 4]
    assert not found["consumed_is_estimate"]


def test_ages_are_those_of_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    # By the database's clock, not by this machine's.
    monkeypatch.setattr(timezone, "now", lambda: datetime(2001, 1, 1, tzinfo=UTC))
    for state, seconds in ((Status.PENDING, 100), (Status.PUBLISHED, 200), (Status.DEAD, 300)):
        for age in (seconds, 1, 0):
            make_message(state, created_at=ago(age))
    make_message(Status.CONSUMED, created_at=ago(1000))
    found = status_json("--no-broker")["outbox"]
    assert found["oldest_pending_seconds"] == pytest.approx(100, abs=30)
    assert found["oldest_published_seconds"] == pytest.approx(200, abs=30)
    assert found["oldest_dead_seconds"] == pytest.approx(300, abs=30)


def test_topics_are_told_with_their_oldest() -> None:
    make_message(topic="a", created_at=ago(50))
    make_message(topic="a")
    make_message(Status.DEAD, topic="a")
    make_message(Status.PUBLISHED, topic="b", created_at=ago(70))
    first, second = status_json("--no-broker")["topics"]
    assert (first["topic"], first["pending"], first["published"], first["dead"]) == ("a", 2, 0, 1)
    assert first["oldest_pending_seconds"] == pytest.approx(50, abs=30)
    assert (second["topic"], second["pending"], second["published"]) == ("b", 0, 1)
    assert second["oldest_published_seconds"] == pytest.approx(70, abs=30)


def test_retries_tell_which_and_when_and_no_secret() -> None:
    make_message(next_retry_at=ago(-50), retry_count=0)  # delayed, not failed
    late = make_message(next_retry_at=ago(-90), retry_count=2, last_error="secret", payload="secret")
    soon = make_message(next_retry_at=ago(-60), retry_count=1, fingerprint="KeyError in a.b", message_key="secret")
    text = status("--json", "--no-broker")
    retries = json.loads(text)["retries"]
    assert [retry["id"] for retry in retries] == [soon.id, late.id]
    assert retries[0]["due_in_seconds"] == pytest.approx(60, abs=30)
    assert (retries[0]["failures"], retries[0]["error"]) == (1, "KeyError in a.b")
    assert "secret" not in text


def test_rates_are_those_of_workers_now_and_of_what_they_wrote_down(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, rate, seen in (("relay", 3.0, 0), ("relay", 4.0, 5), ("relay", 50.0, 90), ("consumer", 2.0, 0)):
        Worker.objects.create(kind=kind, host="h", pid=1, version="1", rate=rate, last_seen_at=ago(seen))
    now = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now)  # or ten minutes might end meanwhile
    period = period_of(now)
    Activity.objects.create(period=period - timedelta(minutes=20), published=0, consumed=0, last_id=100)
    Activity.objects.create(period=period - timedelta(minutes=10), published=600, consumed=300, last_id=1300)
    rates = status_json("--no-broker")["rates"]
    assert rates["now"] == {"published": 7.0, "consumed": 2.0}  # the lost one says nothing any more
    assert rates["ten_minutes"] == {"written": 2.0, "published": 1.0, "consumed": 0.5}
    assert rates["hour"]["published"] == pytest.approx(600 / 3600, abs=0.001)


def test_lag_is_told_by_group_and_partition() -> None:
    put_records(5, group="tests", committed=2)
    groups = {group["group"]: group for group in status_json()["lag"]}
    assert list(groups) == ["tests", "reports"]
    assert (groups["tests"]["lag"], groups["reports"]["lag"]) == (3, 5)
    assert groups["tests"]["partitions"] == [
        {"topic": "outbox", "partition": 0, "committed": 2, "end": 5, "lag": 3},
    ]


def test_a_great_history_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    make_messages(consumed=30, pending=2)
    monkeypatch.setattr(counts, "EXACT_CONSUMED", 10)
    monkeypatch.setattr(counts, "rows_estimate", lambda model, using: 5000)
    with CaptureQueriesContext(connection) as queries:
        found = outbox.full_status("default", broker=False)["outbox"]
    assert (found["consumed"], found["consumed_is_estimate"]) == (4998, True)
    assert not [query for query in queries if "'consumed'" in query["sql"]]
    monkeypatch.setattr(counts, "rows_estimate", lambda model, using: None)  # never analysed
    found = outbox.full_status("default", broker=False)["outbox"]
    assert (found["consumed"], found["consumed_is_estimate"]) == (11, True)


# Watching


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def three_looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let Ctrl-C come in the third wait; the waits."""
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(outbox_status.time, "sleep", sleep)
    return waits


def test_watch_draws_a_terminal_anew_until_ctrl_c(three_looks: list[float]) -> None:
    out = Terminal()
    call_command("outbox_status", "--watch", "--no-broker", stdout=out)
    assert out.getvalue().count(outbox_status.CLEAR) == 3
    assert three_looks == [2.0, 2.0, 2.0]


def test_watch_without_a_terminal_prints_plain_blocks(three_looks: list[float]) -> None:
    text = status("--watch", "0.5", "--no-broker")
    assert text.count("OUTBOX") == 3
    assert "\x1b" not in text
    assert three_looks == [0.5, 0.5, 0.5]


def test_watch_with_json_prints_a_document_a_line(three_looks: list[float]) -> None:
    documents = [json.loads(line) for line in status("--watch", "--json", "--no-broker").splitlines() if line]
    assert [document["outbox"]["pending"] for document in documents] == [0, 0, 0]


def test_watch_goes_on_when_the_database_was_away(monkeypatch: pytest.MonkeyPatch, three_looks: list[float]) -> None:
    def away(*arguments: Any, **options: Any) -> Any:
        if len(three_looks) == 1:
            raise OperationalError("gone\naway")
        return full_status(*arguments, **options)

    full_status = outbox_status.full_status
    monkeypatch.setattr(outbox_status, "full_status", away)
    blocks = status("--watch", "--no-broker").split("Ctrl-C to stop")[1:]
    assert ["Unknown: gone away" in block for block in blocks] == [False, True, False]


# For monitoring


def test_check_is_ok_within_the_limits() -> None:
    make_messages(pending=1, published=1, consumed=5, dead=2)
    expected = (0, "OUTBOX OK - 1 pending, 1 published, 5 consumed, 2 dead")
    assert reason() == expected
    assert reason("--max-age", "60", "--max-dead", "2", "--max-lag", "0") == expected


def test_check_of_an_empty_outbox_is_ok() -> None:
    assert reason("--max-age", "0", "--max-dead", "0", "--max-lag", "0")[0] == 0


def test_check_warns_of_too_many_dead() -> None:
    make_messages(dead=3, pending=1)
    make_received("dead")
    assert reason("--max-dead", "2", "--max-age", "60") == (1, "OUTBOX WARNING - 3 dead")
    assert reason("--max-dead", "0") == (1, "OUTBOX WARNING - 3 dead; 1 dead in the inbox")


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (Status.PENDING, "a pending message has been due for"),
        (Status.PUBLISHED, "a published message has waited for its handler for"),
    ],
)
def test_check_is_critical_if_messages_are_late(state: str, text: str) -> None:
    make_late(state, 100)
    code, line = reason("--max-age", "60")
    assert code == 2
    assert re.fullmatch(rf"OUTBOX CRITICAL - {text} 1\d\d s", line)


def test_status_and_check_name_a_topic_that_no_consumer_reads() -> None:
    make_message(Status.PUBLISHED, event_type=HANDLED, topic="exports", published_at=ago(100))
    (topic,) = status_json("--no-broker")["unread_topics"]
    assert topic["topic"] == "exports"
    assert topic["longest_awaited_seconds"] > 99
    assert "No consumer reads the topic exports. Messages there have waited for " in status("--no-broker")
    code, line = reason("--max-age", "60")
    assert (code, line.rpartition("; ")[2]) == (2, "no consumer reads the topic exports")
    assert reason("--max-age", "100000")[0] == 0


@pytest.mark.django_db(transaction=True)  # the doctor has connections of its own
@pytest.mark.parametrize("topic", ["outbox", "exports"])
@pytest.mark.parametrize("late", ["pending", "published", "inbox", "nothing"])
def test_check_and_doctor_agree(topic: str, late: str) -> None:
    for kind in ("relay", "consumer"):
        Worker.objects.create(kind=kind, group="tests" if kind == "consumer" else "", host="h", pid=1, version="")
    Worker.objects.create(kind="consumer", group="reports", host="h", pid=1, version="")
    if late == "pending":
        make_message(event_type=HANDLED, topic=topic, next_retry_at=ago(100))
    elif late == "published":
        make_message(Status.PUBLISHED, event_type=HANDLED, topic=topic, published_at=ago(100))
    elif late == "inbox":
        make_received("pending", topic=topic, next_retry_at=ago(100))
    else:
        make_message(Status.PUBLISHED, event_type="for.others", topic=topic, published_at=ago(100))
    found = doctor_finds("relays", "consumers", "unread-topics")
    assert found == (reason("--max-age", "60")[0] == 2)


def doctor_finds(*examinations: str) -> bool:
    """True if these examinations find a fault."""
    try:
        call_command("outbox_doctor", "--only", *examinations, "--fail-on", "fault", stdout=io.StringIO())
    except SystemExit as end:
        return end.code == 2
    return False


def test_check_is_critical_if_messages_of_the_inbox_are_late() -> None:
    make_received("pending", next_retry_at=ago(100))
    code, line = reason("--max-age", "60")
    assert code == 2
    assert re.fullmatch(r"OUTBOX CRITICAL - a pending inbox message has been due for 1\d\d s", line)


@pytest.mark.parametrize("state", [Status.CONSUMED, Status.DEAD])
def test_check_minds_the_age_of_unfinished_messages_only(state: str) -> None:
    make_late(state, 1000)
    assert reason("--max-age", "60")[0] == 0


def test_check_takes_a_delay_or_a_wait_for_a_retry_for_no_lateness() -> None:
    make_message(created_at=ago(1000), next_retry_at=ago(-1000))  # published with a delay
    make_message(created_at=ago(1000), next_retry_at=ago(-5), retry_count=9)
    make_message(Status.PUBLISHED, event_type=HANDLED, created_at=ago(1000), published_at=ago(5))  # its delay is over
    found = status_json("--no-broker")["outbox"]
    assert found["oldest_pending_seconds"] > 900  # which counts from the writing, as ever
    assert found["longest_due_seconds"] is None
    assert found["next_due_seconds"] < 10
    assert reason("--max-age", "60")[0] == 0


def test_check_does_not_wait_for_handlers_that_are_elsewhere() -> None:
    make_message(Status.PUBLISHED, event_type="for.others", created_at=ago(1000), published_at=ago(1000))
    assert reason("--max-age", "60")[0] == 0
    with outbox_settings(UNKNOWN_EVENT="dead"):
        assert reason("--max-age", "60")[0] == 2


def test_check_is_critical_if_a_group_is_too_far_behind() -> None:
    put_records(5, group="tests", committed=2)
    assert reason("--max-lag", "5")[0] == 0
    assert reason("--max-lag", "3") == (2, "OUTBOX CRITICAL - group reports is 5 records behind")
    assert performance("--max-lag", "5")["'lag_tests'"] == "3;;5;0"


def test_check_is_critical_if_the_broker_does_not_tell_the_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(self: Any, topics: Any, group: str) -> Any:
        raise BrokerUnavailable("Nobody | is there.")

    monkeypatch.setattr(MemoryBroker, "progress", away)
    code, line = reason("--max-lag", "5")
    assert code == 2
    assert line == "OUTBOX CRITICAL - lag unknown: Nobody / is there."
    assert check()[0] == 0  # which does not ask for it


def test_check_tells_all_that_is_wrong_in_one_line_and_the_worst_counts() -> None:
    make_late(Status.PENDING, 100)
    make_late(Status.PUBLISHED, 200)
    make_messages(dead=1)
    code, line = reason("--max-age", "60", "--max-dead", "0")
    assert code == 2
    assert line.startswith("OUTBOX CRITICAL - 1 dead; a pending message has been due for 1")
    assert "; a published message has waited" in line


def test_check_has_performance_data() -> None:
    make_late(Status.PENDING, 100)
    make_messages(dead=2, published=1)
    found = performance("--max-age", "600", "--max-dead", "5")
    assert re.fullmatch(r"1\d\d\.\ds;;600;0", found.pop("due_age"))
    assert found == {
        "pending": "1;;;0",
        "published": "1;;;0",
        "dead": "2;5;;0",
        "awaited_age": "0.0s;;600;0",
        "inbox_pending": "0;;;0",
        "inbox_dead": "0;5;;0",
        "inbox_due_age": "0.0s;;600;0",
    }


def test_check_with_json_prints_json_and_exits_as_without() -> None:
    make_messages(dead=1)
    code, text = check("--json", "--max-dead", "0")
    assert code == 1
    assert json.loads(text)["outbox"]["dead"] == 1


@pytest.mark.parametrize("error", ["connection refused\n\tIs the server running?", ""])
def test_check_is_critical_without_a_database(monkeypatch: pytest.MonkeyPatch, error: str) -> None:
    def away(using: str, broker: bool) -> None:
        raise OperationalError(error)

    monkeypatch.setattr(outbox_status, "full_status", away)
    code, line = check()
    reason = " ".join(error.split()) or "OperationalError"
    assert code == 2
    assert line.startswith(f"OUTBOX CRITICAL - The database 'default' does not answer ({reason}). ")
    assert line.count("\n") == 1


def test_check_is_critical_with_wrong_settings() -> None:
    with outbox_settings(MAX_RETRY=-1):
        out = io.StringIO()
        with pytest.raises(SystemExit) as ended:
            call_command("outbox_status", "--check", stdout=out, skip_checks=False)
    assert ended.value.code == 2
    assert re.fullmatch(r"OUTBOX CRITICAL - .*MAX_RETRY.*\n", out.getvalue())


def test_check_is_critical_without_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Any, using: str) -> None:
        raise CommandError("The tables are not there.")

    monkeypatch.setattr(outbox_status.Command, "require_tables", missing)
    assert check() == (2, "OUTBOX CRITICAL - The tables are not there.\n")
    with pytest.raises(CommandError, match="The tables are not there"):
        status()


def test_check_is_critical_if_the_database_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(using: str, broker: bool) -> None:
        raise ProgrammingError("permission denied for table x\nLINE 1")

    monkeypatch.setattr(outbox_status, "full_status", refuse)
    assert check() == (2, "OUTBOX CRITICAL - permission denied for table x LINE 1\n")


def test_check_is_unknown_if_it_fails_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(using: str, broker: bool) -> None:
        raise KeyError("bug")

    monkeypatch.setattr(outbox_status, "full_status", fail)
    assert check() == (3, "OUTBOX UNKNOWN - KeyError: 'bug'\n")
    with pytest.raises(KeyError):
        status()


def test_status_without_a_database_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(using: str, broker: bool) -> None:
        raise OperationalError("connection refused\nby peer")

    monkeypatch.setattr(outbox_status, "full_status", away)
    with pytest.raises(
        CommandError, match=r"^The database 'default' does not answer \(connection refused by peer\)\. "
    ):
        status()


@pytest.mark.parametrize("limit", ["--max-age", "--max-dead", "--max-lag"])
def test_limit_that_nothing_is_compared_with_is_refused(limit: str) -> None:
    with pytest.raises(CommandError, match="require --check"):
        status(limit, "5")


def test_options_that_do_not_go_together_are_refused() -> None:
    assert_unknown(check("--watch"), "--check cannot be combined with --watch.")
    assert_unknown(check("--max-lag", "1", "--no-broker"), "--max-lag cannot be combined with --no-broker[.]")


def assert_unknown(found: tuple[int, str], reason: str) -> None:
    code, text = found
    assert code == 3
    assert re.fullmatch(rf"OUTBOX UNKNOWN - {reason}\n", text), text


@pytest.mark.parametrize(
    "arguments",
    [
        ("--max-age", "-1"),
        ("--max-age", "nan"),
        ("--max-age", "inf"),
        ("--max-dead", "-1"),
        ("--max-dead", "1.5"),
        ("--max-lag", "x"),
    ],
)
def test_limits_are_numbers(arguments: tuple[str, str]) -> None:
    with pytest.raises(CommandError, match=f"argument {arguments[0]}: '{arguments[1]}' is"):
        status("--check", *arguments)
