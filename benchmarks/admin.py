"""``python -m benchmarks.admin``: how long the admin's pages take on a large table, on PostgreSQL.

The table is made by the database itself: mostly consumed messages, with some that are unfinished at
its old end, at its new end and in between. So is an inbox of a fifth of its size. Prints for each page its first time, the median of the
following ones, its queries, and the slowest of them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import django

from tests.support.servers.postgres import PostgreSQL

REPEATS = 5

MESSAGES = """
    INSERT INTO django_outbox_outboxmessage (
        event_id, event_type, event_version, topic, message_key, payload, headers, status, publish_count,
        delivery_count, retry_count, max_retry, next_retry_at, last_error, fingerprint, "partition", "offset",
        created_at, updated_at, published_at, consumed_at
    )
    SELECT
        gen_random_uuid(), 'order.' || (n %% 7), 'v1', 'orders', (n %% 100000)::text,
        jsonb_build_object('order', n, 'text', repeat('x', 200)), '{}', status, (status <> 'pending')::int,
        0, CASE status WHEN 'dead' THEN 20 ELSE 0 END, 20, CASE status WHEN 'pending' THEN at END,
        CASE status WHEN 'dead' THEN 'ValueError: boom ' || n ELSE '' END,
        CASE status WHEN 'dead' THEN 'ValueError in shop.handler' || (n / 250 %% 30) ELSE '' END,
        n %% 12, n, at, at, CASE WHEN status <> 'pending' THEN at END, CASE status WHEN 'consumed' THEN at END
    FROM (
        SELECT n, now() - (%(rows)s - n) * interval '0.1 s' AS at,
            CASE
                WHEN n > %(rows)s - 20000 THEN 'pending'
                WHEN n %% 250 = 0 THEN 'dead'
                WHEN n %% 500 = 1 THEN 'pending'
                WHEN n %% 100 = 2 THEN 'published'
                ELSE 'consumed'
            END AS status
        FROM generate_series(1, %(rows)s) AS n
    ) AS made
"""
INBOX = """
    INSERT INTO django_outbox_inboxmessage (
        "group", source, event_id, event_type, event_version, topic, "partition", "offset", message_key, payload,
        headers, status, delivery_count, retry_count, max_retry, next_retry_at, last_error, fingerprint, created_at,
        updated_at, consumed_at
    )
    SELECT
        'reports', 'billing', n::text, 'invoice.' || (n %% 7), 'v1', 'invoices', n %% 12, n, (n %% 100000)::text,
        CASE status WHEN 'consumed' THEN 'null'::jsonb ELSE jsonb_build_object('invoice', n) END, '{}', status, 0,
        CASE status WHEN 'consumed' THEN 0 ELSE 5 END, 20, CASE status WHEN 'pending' THEN at END,
        CASE status WHEN 'consumed' THEN '' ELSE 'KeyError: ' || n END,
        CASE status WHEN 'consumed' THEN '' ELSE 'KeyError in shop.handler' || (n / 250 %% 30) END,
        at, at, CASE status WHEN 'consumed' THEN at END
    FROM (
        SELECT n, now() - (%(rows)s - n) * interval '0.1 s' AS at,
            CASE WHEN n %% 250 = 0 THEN 'dead' WHEN n %% 500 = 1 THEN 'pending' ELSE 'consumed' END AS status
        FROM generate_series(1, %(rows)s) AS n
    ) AS made
"""
FAILURES = """
    INSERT INTO django_outbox_messagefailure (
        message_id, occurred_at, worker, stage, attempt, final, error, fingerprint
    )
    SELECT id, updated_at, 'host:1', 'handle', attempt, attempt = 3, last_error, fingerprint
    FROM django_outbox_outboxmessage CROSS JOIN generate_series(1, 3) AS attempt WHERE status = 'dead'
"""
INBOX_FAILURES = """
    INSERT INTO django_outbox_messagefailure (
        inbox_message_id, occurred_at, worker, stage, attempt, final, error, fingerprint
    )
    SELECT id, updated_at, 'host:1', 'handle', attempt, status = 'dead' AND attempt = 3, last_error, fingerprint
    FROM django_outbox_inboxmessage CROSS JOIN generate_series(1, 3) AS attempt WHERE status <> 'consumed'
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    options = parser.parse_args()
    with PostgreSQL() as server:
        os.environ["DATABASE_URL"] = server.url
        os.environ["DJANGO_SETTINGS_MODULE"] = "tests.support.settings"
        django.setup()
        from django.core.management import call_command
        from django.db import connection

        call_command("migrate", verbosity=0)
        with connection.cursor() as cursor:
            cursor.execute(MESSAGES, {"rows": options.rows})
            cursor.execute(INBOX, {"rows": options.rows // 5})
            cursor.execute(FAILURES)
            cursor.execute(INBOX_FAILURES)
            cursor.execute("VACUUM ANALYZE")
        _measure()
        _purge(options.rows // 20)
        connection.close()


def _measure() -> None:
    from django.contrib.auth.models import User
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    from django_outbox.models import OutboxMessage

    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    dead = OutboxMessage.objects.filter(status="dead").latest("id")
    base = "/admin/django_outbox"
    pages = {
        "overview": f"{base}/overview/",
        "messages": f"{base}/outboxmessage/",
        "messages, deep": f"{base}/outboxmessage/?before=1000000",
        "messages, pending": f"{base}/outboxmessage/?status=pending",
        "messages, published": f"{base}/outboxmessage/?status=published",
        "messages, dead": f"{base}/outboxmessage/?status=dead",
        "messages, of a type": f"{base}/outboxmessage/?type=order.3",
        "search for a key": f"{base}/outboxmessage/?q=4711",
        "search for an id": f"{base}/outboxmessage/?q={dead.id}",
        "dead letters": f"{base}/deadletter/",
        "dead letters, of an error": f"{base}/deadletter/?error={dead.fingerprint}",
        "message": f"{base}/deadletter/{dead.id}/change/",
        "retry all": f"{base}/deadletter/retry/",
        "inbox messages": f"{base}/inboxmessage/",
        "inbox dead letters": f"{base}/inboxdeadletter/",
    }
    client.get(f"{base}/overview/")  # imports and templates
    print(f"{'page':<28}{'first ms':>10}{'median ms':>10}{'queries':>9}  slowest query")
    for name, page in pages.items():
        times = []
        for _ in range(REPEATS):
            with CaptureQueriesContext(connection) as captured:
                start = time.perf_counter()
                response = client.get(page)
                times.append((time.perf_counter() - start) * 1000)
            assert response.status_code == 200, (name, response.status_code)
        slowest = max(captured, key=lambda query: float(query["time"]))
        sql = " ".join(slowest["sql"].split())
        shown = sql if len(sql) < 110 else f"{sql[:30]} … {sql[-110:]}"
        print(
            f"{name:<28}{times[0]:>10.0f}{statistics.median(times):>10.0f}{len(captured):>9}  {slowest['time']} s {shown}"
        )


def _purge(rows: int) -> None:
    from django_outbox.models import OutboxMessage
    from django_outbox.state.purging import delete

    first = OutboxMessage.objects.filter(status="consumed").earliest("id").id
    start = time.perf_counter()
    deleted = delete(OutboxMessage.objects.filter(status="consumed", id__lt=first + rows), using="default")
    seconds = time.perf_counter() - start
    print(f"purge: {deleted} messages in {seconds:.1f} s, {deleted / seconds:.0f} a second")


if __name__ == "__main__":
    main()
