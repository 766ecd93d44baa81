"""PostgreSQL's own statements: fast whatever its statistics say, and nothing is passed over for it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_outbox import Event, RawBytes, publish_many
from django_outbox.consumer.consumer import Consumer
from django_outbox.models import OutboxMessage
from django_outbox.relay.claims import PostgresqlClaims
from django_outbox.relay.relay import Relay
from django_outbox.state import outbox as state
from django_outbox.state.dialects import postgresql
from django_outbox.state.dialects.postgresql import START, PostgreSQL
from django_outbox.state.dialects.results import Published
from django_outbox.state.dialects.statements import PLAN_FOR_FULL_BATCH
from django_outbox.state.retry import retry
from django_outbox.state.transitions import mark_failed
from django_outbox.worker.prepared_statements import PLANS_SECONDS, PreparedStatements
from django_outbox.worker.stop import Stop
from tests.support.clock import Clock
from tests.support.outbox import Status, in_thread, make_due, make_message, memory_broker, row

pytestmark = [pytest.mark.databases("postgresql"), pytest.mark.django_db]

AN_HOUR = timedelta(hours=1)


@pytest.fixture
def expects_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """For relays that claim, and look for what comes before, in one statement."""
    monkeypatch.setattr(PostgresqlClaims, "expects_full", False)


def fill(rows: int, status: str = Status.PENDING, source: str = "tests", late: timedelta = timedelta(0)) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO django_outbox_outboxmessage (event_id, event_type, event_version, topic, message_key, payload,"
            " headers, status, publish_count, delivery_count, retry_count, max_retry, last_error, next_retry_at,"
            " consumed_at, source) SELECT gen_random_uuid(), 'order.created', 'v1', 'outbox', (n %% 100)::text,"
            " to_json(repeat('x', 300)), '{}', %s,"
            " (%s)::int, 0, 0, 20, '', CASE WHEN %s THEN now() - %s END, CASE WHEN %s THEN now() END, %s"
            " FROM generate_series(1, %s) n",
            [
                status,
                status == Status.PUBLISHED,
                status == Status.PENDING,
                late,
                status == Status.CONSUMED,
                source,
                rows,
            ],
        )


@pytest.fixture(autouse=True)
def no_pages_of_other_tests(db: None) -> None:
    """Begin with a table without pages: the planner also counts those of rows that were rolled back."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE django_outbox_outboxmessage CASCADE")


def analyze() -> None:
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE django_outbox_outboxmessage")


def plan_of(sql: str) -> dict[str, Any]:
    """How PostgreSQL runs a statement now."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
        (found,) = cursor.fetchone()
    plan: dict[str, Any] = (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
    return plan


def plans_of(sql: str) -> Iterator[dict[str, Any]]:
    """With these statistics, and with those of an ANALYZE that ran before the rows were committed: it counts none."""
    yield plan_of(sql)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE pg_class SET reltuples = 0, relpages = pg_relation_size(oid) / current_setting('block_size')::int"
            " WHERE relname = 'django_outbox_outboxmessage'"
        )
    yield plan_of(sql)


def rows_read(plan: dict[str, Any]) -> float:
    """The rows that the widest step of a plan handled or dropped."""
    own = plan["Actual Loops"] * (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0))
    return max([own, *(rows_read(part) for part in plan.get("Plans", []))])


# Plans


@pytest.mark.parametrize("known", [None, Status.PENDING, Status.CONSUMED])
@pytest.mark.parametrize("on_dead", ["continue", "hold"])
def test_a_pass_reads_no_more_rows_than_its_batch_whatever_the_statistics_say(
    settings: Any, known: str | None, on_dead: str
) -> None:
    """A backlog appears faster than statistics are renewed: they may still say that nothing is pending."""
    settings.OUTBOX = {**settings.OUTBOX, "ON_DEAD": on_dead}
    if known is not None:
        fill(10_000, known)
    analyze()
    fill(20_000)
    with CaptureQueriesContext(connection) as queries:
        assert Relay(memory_broker(), using="default", batch_size=50).run_once().published == 50
    statements = [query["sql"] for query in queries if "FROM django_outbox_outboxmessage" in query["sql"]]
    statements += [query["sql"] for query in queries if "UPDATE django_outbox_outboxmessage" in query["sql"]]
    assert len(statements) == 4
    with connection.cursor() as cursor:
        cursor.execute(PLAN_FOR_FULL_BATCH)
        for plan in itertools.chain.from_iterable(map(plans_of, statements)):
            assert rows_read(plan) <= 100, json.dumps(plan, indent=1)


@pytest.mark.parametrize("known", [None, "tests", "billing"])
@pytest.mark.parametrize("expects_full", [True, False])
@pytest.mark.parametrize("on_dead", ["continue", "hold"])
def test_a_pass_reads_no_messages_of_another_service_whatever_the_statistics_say(
    settings: Any, monkeypatch: pytest.MonkeyPatch, known: str | None, expects_full: bool, on_dead: str
) -> None:
    """Its backlog is longer, older and of the same keys."""
    settings.OUTBOX = {**settings.OUTBOX, "ON_DEAD": on_dead}
    monkeypatch.setattr(PostgresqlClaims, "expects_full", expects_full)
    if known is not None:
        fill(10_000, source=known)
    OutboxMessage.objects.update(status=Status.CONSUMED, next_retry_at=None, consumed_at=timezone.now())
    analyze()
    fill(20_000, source="billing", late=AN_HOUR)
    due = [make_message(message_key=str(number)) for number in range(20)]

    with CaptureQueriesContext(connection) as queries:
        assert Relay(memory_broker(), using="default", batch_size=50).run_once().published == len(due)
    statements = [query["sql"] for query in queries if "FROM django_outbox_outboxmessage" in query["sql"]]
    assert len(statements) == (1 if not expects_full and on_dead == "continue" else 2)
    OutboxMessage.objects.filter(id__in=[message.id for message in due]).update(
        status=Status.PENDING, publish_count=0, next_retry_at=timezone.now() - AN_HOUR
    )
    for plan in itertools.chain.from_iterable(map(plans_of, statements)):
        assert rows_read(plan) <= 100, json.dumps(plan, indent=1)


@pytest.mark.parametrize("known", [None, "tests", "billing"])
def test_an_idle_poll_reads_no_messages_of_another_service(known: str | None) -> None:
    if known is not None:
        fill(10_000, Status.CONSUMED, source=known)
    analyze()
    fill(20_000, source="billing", late=AN_HOUR)
    with CaptureQueriesContext(connection) as queries:
        assert not PostgreSQL("default").is_due([])
    for plan in plans_of(queries[0]["sql"]):
        assert rows_read(plan) == 0, json.dumps(plan, indent=1)


@pytest.mark.parametrize("known", [None, "tests", "billing"])
@pytest.mark.parametrize("status", [Status.PENDING, Status.PUBLISHED])
def test_a_look_before_a_handler_reads_no_messages_of_another_service(known: str | None, status: str) -> None:
    if known is not None:
        fill(10_000, status, source=known)
    OutboxMessage.objects.update(status=Status.CONSUMED, next_retry_at=None, consumed_at=timezone.now())
    analyze()
    fill(20_000, status, source="billing", late=AN_HOUR)
    messages: Any = [make_message(Status.PUBLISHED, message_key=str(number)) for number in range(20)]
    with CaptureQueriesContext(connection) as queries:
        assert PostgreSQL("default").unhandled_before(messages, ["order.created"], dead=True) == {}
    for plan in plans_of(queries[0]["sql"]):
        assert rows_read(plan) <= 100, json.dumps(plan, indent=1)


@pytest.mark.parametrize("known", [None, Status.PENDING, Status.PUBLISHED, Status.CONSUMED])
@pytest.mark.parametrize("status", [Status.PENDING, Status.PUBLISHED])
def test_a_failure_reads_no_other_message_whatever_the_statistics_say(known: str | None, status: str) -> None:
    if known is not None:
        fill(10_000, known)
    OutboxMessage.objects.update(status=Status.CONSUMED, next_retry_at=None, consumed_at=timezone.now())
    analyze()
    fill(20_000, status)
    (id,) = OutboxMessage.objects.order_by("-id").values_list("id", flat=True)[:1]
    rows = state.to_send if status == Status.PENDING else state.in_delivery
    with transaction.atomic(), CaptureQueriesContext(connection) as queries:
        assert mark_failed(rows(id, 1, using="default"), "boom")
        transaction.set_rollback(True)
    statements = [query["sql"] for query in queries if "FOR UPDATE" in query["sql"] or "UPDATE" in query["sql"][:6]]
    assert len(statements) == 2
    for plan in itertools.chain.from_iterable(map(plans_of, statements)):
        assert rows_read(plan) <= 10, json.dumps(plan, indent=1)


@pytest.mark.usefixtures("expects_little")
def test_a_pass_with_little_to_do_takes_one_statement_to_read_and_one_to_mark() -> None:
    for key in ("a", "", "b"):
        make_message(message_key=key)
    relay = Relay(memory_broker(), using="default")
    with CaptureQueriesContext(connection) as queries:
        assert relay.run_once().published == 3
    statements = [query["sql"].split()[0] for query in queries if "django_outbox_outboxmessage" in query["sql"]]
    assert statements == ["WITH", "UPDATE"]


@pytest.mark.parametrize("known", [None, Status.PENDING, Status.CONSUMED])
@pytest.mark.parametrize("others", [Status.CONSUMED, Status.PENDING])
def test_little_is_found_by_few_steps_whatever_the_statistics_say(known: str | None, others: str) -> None:
    """What is finished is not read, and of what waits for a retry no more than a look may show."""
    if known is not None:
        fill(10_000, known)
    analyze()
    fill(10_000, others)
    OutboxMessage.objects.pending().update(next_retry_at=timezone.now() + AN_HOUR)
    due = [make_message(message_key=key) for key in ("1", "", "no other has this")]
    fill(10_000, others)
    OutboxMessage.objects.pending().filter(id__gt=due[-1].id).update(next_retry_at=timezone.now() + AN_HOUR)

    with transaction.atomic(), CaptureQueriesContext(connection) as queries:
        batch, earlier = PostgreSQL("default").claim_with_pending(50, [], START)

    assert [message.id for message in batch] == [message.id for message in due]
    waits = Status.PENDING in (known, others)
    assert len(earlier) == (postgresql.MOST_PENDING_BEFORE if waits else 0)
    (sql,) = (query["sql"] for query in queries if "WITH batch" in query["sql"])
    plan = plan_of(sql)
    assert rows_read(plan) <= len(earlier) + 10, json.dumps(plan, indent=1)


def test_where_no_message_has_a_key_nothing_is_looked_for() -> None:
    make_message(next_retry_at=timezone.now() + AN_HOUR)
    make_message()
    with transaction.atomic():
        batch, earlier = PostgreSQL("default").claim_with_pending(50, [], START)
    assert (len(batch), earlier) == (1, [])


def test_nothing_is_looked_for_behind_what_is_due_before_the_batch() -> None:
    """Another relay has it in hand, and all that is pending in its key may be behind it."""
    fill(20_000)
    analyze()
    ids = list(OutboxMessage.objects.order_by("id").values_list("id", flat=True)[:200])
    with CaptureQueriesContext(connection) as queries:
        assert state.postpone(ids[:100], first_due=ids[100], using="default") == 0
    (sql,) = (query["sql"] for query in queries if "django_outbox_outboxmessage" in query["sql"])
    plan = plan_of(sql)
    assert rows_read(plan) <= 100, json.dumps(plan, indent=1)


@pytest.mark.parametrize("size", [500, 4000])
def test_marking_a_batch_compares_each_of_its_messages_once_where_statistics_know_of_nothing_pending(size: int) -> None:
    """Not each with each, which took 25 of the 32 ms of a batch of 500."""
    fill(10_000, Status.CONSUMED)
    analyze()
    fill(size)
    ids = list(OutboxMessage.objects.pending().values_list("id", flat=True))
    with transaction.atomic(), CaptureQueriesContext(connection) as queries:
        assert state.mark_published([Published(id, 1, 0, 0) for id in ids], using="default") == size
        transaction.set_rollback(True)
    (sql,) = (query["sql"] for query in queries if "UPDATE" in query["sql"])
    with connection.cursor() as cursor:
        cursor.execute(PLAN_FOR_FULL_BATCH)
        # As with a table of many millions, where ways to join are as good as the same beside the cost of reading.
        cursor.execute("SET LOCAL random_page_cost = 100; SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN {sql}")
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "Nested Loop" not in plan, plan
    assert "django_outbox_outboxmessage_pkey" in plan, plan


@pytest.mark.django_db(transaction=True)
def test_settings_for_the_planner_end_with_the_pass() -> None:
    make_message()
    assert Relay(memory_broker(), using="default").run_once().published == 1
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('enable_sort'), current_setting('enable_bitmapscan'),"
            " current_setting('plan_cache_mode')"
        )
        assert cursor.fetchone() == ("on", "on", "auto")


# Prepared statements


@pytest.fixture
def prepared() -> Iterator[None]:
    """What ``server_side_binding`` and ``prepare_threshold`` do, for one test."""
    from django.db.backends.postgresql.base import ServerBindingCursor

    connection.ensure_connection()
    driver = connection.connection
    before = driver.cursor_factory, driver.prepare_threshold
    driver.cursor_factory, driver.prepare_threshold = ServerBindingCursor, 1
    yield
    driver.cursor_factory, driver.prepare_threshold = before


@contextmanager
def statements() -> Iterator[list[str]]:
    """What the block executes, in the words of the project: with prepared statements Django records none."""
    found: list[str] = []

    def note(execute: Any, sql: str, *others: Any) -> Any:
        found.append(sql)
        return execute(sql, *others)

    with connection.execute_wrapper(note):
        yield found


def begin_with_an_empty_table() -> None:
    """Without the pages that earlier tests have left in it."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE django_outbox_outboxmessage CASCADE")
    analyze()


def rows_read_one_after_another() -> int:
    """In this transaction, without an index."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'django_outbox_outboxmessage'"
        )
        return int(cursor.fetchone()[0])


def consume(ids: list[int]) -> None:
    messages = PostgreSQL("default").lock(ids)
    PostgreSQL("default").unhandled_before(messages, ["order.created"], dead=True)
    assert PostgreSQL("default").mark_consumed(messages) == len(ids)


@pytest.mark.usefixtures("prepared")
def test_plans_of_a_nearly_empty_table_are_forgotten_within_a_second() -> None:
    clock = Clock()
    server = PreparedStatements("default", clock)
    begin_with_an_empty_table()
    server.renew_plans()
    for _ in range(10):  # after five, the server begins to keep plans
        consume([make_message(status=Status.PUBLISHED).id])
    fill(20_000, Status.PUBLISHED)
    ids = list(OutboxMessage.objects.filter(status=Status.PUBLISHED).order_by("id").values_list("id", flat=True)[:20])
    before = rows_read_one_after_another()
    consume(ids[:10])
    assert rows_read_one_after_another() - before >= 20_000, "no plan was kept: this test shows nothing"

    clock.now += PLANS_SECONDS
    server.renew_plans()

    before = rows_read_one_after_another()
    consume(ids[10:])
    assert rows_read_one_after_another() - before < 1000


@pytest.mark.usefixtures("prepared")
def test_a_backlog_is_carried_out_by_plans_that_are_made_for_it() -> None:
    """Even if it shows within the second in which plans are kept."""
    broker = memory_broker()
    relay = Relay(broker, using="default", batch_size=50)
    begin_with_an_empty_table()
    for _ in range(10):
        make_message()
        assert relay.run_once().published == 1
    fill(20_000)
    assert relay.run_once().published == 50

    before = rows_read_one_after_another()
    assert relay.run_once().published >= 50
    assert rows_read_one_after_another() - before < 1000


def test_a_first_full_batch_is_marked_by_a_plan_that_is_made_for_it() -> None:
    relay = Relay(memory_broker(), using="default", batch_size=2)
    make_message()
    assert relay.run_once().published == 1
    make_message()
    make_message()
    with statements() as executed:
        assert relay.run_once().published == 2
    kinds = [
        kind
        for sql in executed
        for kind in ("FOR UPDATE SKIP LOCKED", "force_custom_plan", "UPDATE django_outbox")
        if kind in sql
    ]
    assert kinds == ["FOR UPDATE SKIP LOCKED", "force_custom_plan", "UPDATE django_outbox"]


@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("worker", ["relay", "consumer"])
def test_a_worker_has_its_plans_made_anew_once_a_second(worker: str) -> None:
    clock = Clock()
    broker = memory_broker()
    run = (
        Relay(broker, using="default", clock=clock).run
        if worker == "relay"
        else Consumer(broker, using="default", clock=clock).run
    )
    for passed, renewed in ((0.0, 1), (0.9, 0), (0.1, 1)):
        clock.now += passed
        with statements() as executed, closing(Stop()) as stop:
            run(stop, drain=True)
        assert executed.count("DISCARD PLANS") == renewed, clock.now


def test_plans_are_left_alone_where_no_statement_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    connection.ensure_connection()
    monkeypatch.setattr(connection.connection, "prepare_threshold", None)
    with statements() as executed:
        PreparedStatements("default", Clock()).renew_plans()
    assert not executed


# Content


def test_the_time_of_a_message_is_in_utc_whatever_the_session_says() -> None:
    broker = memory_broker()
    message = make_message()
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL DateStyle = 'German, DMY'")
        cursor.execute("SET LOCAL TimeZone = 'Asia/Kathmandu'")

    Relay(broker, using="default").run_once()

    time = dict(broker.records("outbox")[0].headers)["ce_time"].decode()
    assert time.endswith("Z")
    assert datetime.fromisoformat(time) == message.created_at


@pytest.mark.parametrize("microseconds", ["000000", "120000", "000001"])
def test_the_time_of_a_message_always_has_six_digits_of_a_second(microseconds: str) -> None:
    broker = memory_broker()
    message = make_message()
    written_at = f"2026-05-06T07:08:09.{microseconds}+00:00"
    OutboxMessage.objects.filter(id=message.id).update(created_at=datetime.fromisoformat(written_at))

    Relay(broker, using="default").run_once()

    time = dict(broker.records("outbox")[0].headers)["ce_time"].decode()
    assert time == f"2026-05-06T07:08:09.{microseconds}Z"


# Publishing


def test_large_payloads_are_written_in_several_statements(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parameter of PostgreSQL has at most 1 GB, in which bytes are hexadecimal."""
    monkeypatch.setattr(postgresql, "INSERT_BYTES", 1000)
    payloads = [RawBytes(b"\xff" * size) for size in (400, 400, 400, 2000, 400)]
    payloads += ["x" * size for size in (400, 400, 2000)]

    with statements() as executed:
        messages = publish_many([Event(type="order.created", payload=payload) for payload in payloads])

    assert sum("INSERT INTO" in statement for statement in executed) == 6
    stored = OutboxMessage.objects.order_by("id")
    assert [message.id for message in messages] == [each.id for each in stored]
    assert [bytes(each.raw_value) if each.raw_value is not None else each.payload for each in stored] == payloads


# Order


@pytest.fixture(params=[True, False], ids=["much is due", "little is due"])
def expected(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PostgresqlClaims, "expects_full", request.param)


@pytest.mark.usefixtures("expected")
def test_more_earlier_messages_than_one_look_shows_still_hold_those_behind_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(postgresql, "MOST_PENDING_BEFORE", 3)
    later = timezone.now() + AN_HOUR
    for key in ("b", "c", "d", "a"):
        make_message(message_key=key, next_retry_at=later)
    held, free = make_message(message_key="a"), make_message(message_key="e")

    Relay(memory_broker(), using="default").run_once()

    assert row(held).status == Status.PENDING
    assert row(held).next_retry_at == later
    assert row(free).status == Status.PUBLISHED


@pytest.mark.usefixtures("expected")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("moment", range(6))
def test_a_retry_at_no_moment_of_a_pass_lets_a_later_message_go_first(settings: Any, moment: int) -> None:
    """Were what is pending and what is dead read by two statements, neither would see what goes from dead to pending."""
    settings.OUTBOX = {**settings.OUTBOX, "ON_DEAD": "hold"}
    dead = make_message(Status.DEAD, message_key="a", payload=1)
    make_message(message_key="a", payload=2)
    broker = memory_broker()
    relay = Relay(broker, using="default")
    statements = itertools.count()

    def retry_before_one(execute: Any, sql: str, *others: Any) -> Any:
        if next(statements) == moment:
            with in_thread(lambda: retry(OutboxMessage.objects.filter(id=dead.id), using="default")):
                pass
        return execute(sql, *others)

    with connection.execute_wrapper(retry_before_one):
        relay.run_once()
    assert next(statements) >= 3  # so that the moments that matter are among these
    retry(OutboxMessage.objects.filter(id=dead.id, status="dead"), using="default")
    make_due(*OutboxMessage.objects.pending())
    relay.run_once()

    assert [record.value for record in broker.records("outbox")] == [b"1", b"2"]


@pytest.mark.usefixtures("expected")
def test_of_a_dead_and_a_waiting_message_the_first_holds(settings: Any) -> None:
    settings.OUTBOX = {**settings.OUTBOX, "ON_DEAD": "hold"}
    make_message(Status.DEAD, message_key="a")
    waiting = make_message(message_key="a", next_retry_at=timezone.now() + AN_HOUR)
    held = make_message(message_key="a")

    Relay(memory_broker(), using="default").run_once()

    assert row(held).status == Status.PENDING
    assert row(held).next_retry_at < row(waiting).next_retry_at  # as long as behind the dead one, not the other


@pytest.mark.usefixtures("expected")
def test_messages_without_key_wait_for_no_other_without_key() -> None:
    """Also where the look at what is unsent finds one of them, as some have a key."""
    make_message(next_retry_at=timezone.now() + AN_HOUR)
    plain = make_message()
    make_message(message_key="k")

    done = Relay(memory_broker(), using="default").run_once()

    assert (done.published, done.blocked) == (2, 0)
    assert row(plain).status == Status.PUBLISHED


# Storage


def storage() -> tuple[set[str], set[str]]:
    """The table's own settings and the names of its indexes."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT reloptions FROM pg_class WHERE relname = 'django_outbox_outboxmessage'")
        (options,) = cursor.fetchone() or (None,)
        cursor.execute("SELECT indexname FROM pg_indexes WHERE tablename = 'django_outbox_outboxmessage'")
        return set(options or ()), {name for (name,) in cursor.fetchall()}


@pytest.mark.django_db(transaction=True)
def test_storage_settings_come_and_go_with_their_migration() -> None:
    assert "autovacuum_vacuum_threshold=10000" in storage()[0]
    assert "django_outbox_pending" in storage()[1]
    try:
        call_command("migrate", "django_outbox", "zero", verbosity=0)
        assert storage() == (set(), set())
    finally:
        call_command("migrate", "django_outbox", verbosity=0)
    assert "autovacuum_vacuum_threshold=10000" in storage()[0]
