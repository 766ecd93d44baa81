"""PostgreSQL's own statements. Each must be fast whatever the statistics say: they are often of an idle moment."""

from __future__ import annotations

_INSERT_INTO = """
    INSERT INTO django_outbox_outboxmessage (
        source, event_id, event_type, event_version, topic, message_key, headers, payload, max_retry,
        delivery_count, retry_count, last_error, status, publish_count, next_retry_at"""
_ARRAY_COLUMNS = "event_id, event_type, event_version, topic, message_key, headers, payload, max_retry, delay"
_ARRAYS = "%s::uuid[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::int[], %s::bigint[]"
_NEW_ROW = (
    "%s, event_id, event_type, event_version, topic, message_key, headers::jsonb, payload::jsonb, max_retry, 0, 0, ''"
)

# One message: two thirds of the time that arrays take.
INSERT_ONE = f"""
    {_INSERT_INTO})
    VALUES (%s, %s::uuid, %s, %s, %s, %s, %s::jsonb, %s::jsonb, %s, 0, 0, '', 'pending', 0,
            statement_timestamp() + %s::bigint * interval '1 microsecond')
    RETURNING id, created_at, next_retry_at
"""  # of a constant

# One message that Debezium sends.
INSERT_ONE_FOR_DEBEZIUM = f"""
    {_INSERT_INTO}, published_at)
    VALUES (%s, %s::uuid, %s, %s, %s, %s, %s::jsonb, %s::jsonb, %s, 0, 0, '', 'published', 1, NULL, statement_timestamp())
    RETURNING id, created_at, next_retry_at
"""  # of a constant

# Arrays in place of a parameter per column and row.
INSERT = f"""
    {_INSERT_INTO})
    SELECT {_NEW_ROW}, 'pending', 0, statement_timestamp() + delay * interval '1 microsecond'
    FROM unnest({_ARRAYS}) WITH ORDINALITY AS new ({_ARRAY_COLUMNS}, number)
    ORDER BY number
    RETURNING id, created_at, next_retry_at
"""  # noqa: S608  # of a constant

# Also messages that are not JSON. The others leave these columns at their defaults, which is faster.
INSERT_WITH_BYTES = f"""
    {_INSERT_INTO}, content_type, raw_value)
    SELECT {_NEW_ROW}, 'pending', 0, statement_timestamp() + delay * interval '1 microsecond', content_type, raw_value
    FROM unnest({_ARRAYS}, %s::text[], %s::bytea[]) WITH ORDINALITY
         AS new ({_ARRAY_COLUMNS}, content_type, raw_value, number)
    ORDER BY number
    RETURNING id, created_at, next_retry_at
"""  # noqa: S608  # of a constant

# Also messages that Debezium sends: those without a delay.
INSERT_FOR_DEBEZIUM = f"""
    {_INSERT_INTO}, content_type, raw_value, published_at)
    SELECT {_NEW_ROW}, CASE WHEN by_debezium THEN 'published' ELSE 'pending' END, CASE WHEN by_debezium THEN 1 ELSE 0 END,
           CASE WHEN NOT by_debezium THEN statement_timestamp() + delay * interval '1 microsecond' END,
           content_type, raw_value, CASE WHEN by_debezium THEN statement_timestamp() END
    FROM unnest({_ARRAYS}, %s::text[], %s::bytea[], %s::bool[]) WITH ORDINALITY
         AS new ({_ARRAY_COLUMNS}, content_type, raw_value, by_debezium, number)
    ORDER BY number
    RETURNING id, created_at, next_retry_at
"""  # noqa: S608  # of a constant

# Until the transaction ends, read in index order: with stale statistics, PostgreSQL would read and sort everything
# pending at each pass. And plan for the actual arrays: a prepared statement may keep a plan made for a few ids.
PLAN_FOR_FULL_BATCH = """
    SELECT set_config('enable_sort', 'off', true), set_config('enable_bitmapscan', 'off', true),
           set_config('plan_cache_mode', 'force_custom_plan', true)
"""

# Lock due messages, skipping those locked by other relays. The time is as events/writer.py writes it, whatever the
# session's settings.
CLAIM_DUE = """
    SELECT id, source, event_id::text, event_type, event_version, topic, message_key, headers::text,
           to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS created_at, publish_count, payload::text,
           content_type, raw_value
    FROM django_outbox_outboxmessage
    WHERE status = 'pending' AND source = %s AND next_retry_at <= statement_timestamp() AND topic <> ALL(%s)
      AND (next_retry_at, id) >= (%s::timestamptz, %s)
    ORDER BY next_retry_at, id
    LIMIT %s
    FOR UPDATE SKIP LOCKED
"""

# Whether a message is due. In the order of claims, so that the same index is used.
IS_DUE = """
    SELECT 1
    FROM django_outbox_outboxmessage
    WHERE status = 'pending' AND source = %s AND next_retry_at <= statement_timestamp() AND topic <> ALL(%s)
    ORDER BY next_retry_at, id
    LIMIT 1
"""

# The place of a message in the order of claims.
PLACE = "SELECT next_retry_at::text, id FROM django_outbox_outboxmessage WHERE id = %s"

# Pending messages before the last message of a batch and not in it, whatever their keys. Usually there are none, and one
# walk along the index on ids of pending messages shows that; looking key by key takes four times as long. Without an
# order and with a comparison of rows, no other index is usable: with statistics of an empty table, all look as cheap.
_PENDING = "status || '' = 'pending' AND id - id = 0 AND id * 0 = 0"
PENDING_BEFORE = f"""
    SELECT topic, message_key, id, status
    FROM django_outbox_outboxmessage
    WHERE {_PENDING} AND source = %s AND (source, id) < (%s, %s) AND id <> ALL(%s::bigint[])
    LIMIT %s
"""  # noqa: S608  # of a constant

# Both in one round trip, for small batches. One snapshot sees either both an earlier and a later message, or neither.
CLAIM_DUE_AND_PENDING_BEFORE = f"""
    WITH batch AS ({CLAIM_DUE})
    SELECT batch.* FROM batch
    UNION ALL (
        SELECT id, source, NULL, NULL, NULL, topic, message_key, NULL, NULL, NULL, NULL, NULL, NULL
        FROM django_outbox_outboxmessage
        WHERE {_PENDING} AND source = %s AND (source, id) < (%s, (SELECT max(id) FROM batch WHERE message_key <> ''))
          AND id NOT IN (SELECT id FROM batch)
        LIMIT %s
    )
"""  # noqa: S608  # of constants

# For the last message of each key in a batch, and for each status, the first message before it that is not in the
# batch. Ordered by id alone, or with a plain comparison of ids, PostgreSQL would walk the primary key past all finished
# rows where statistics know of no row: an ANALYZE counts none of a large transaction that has not ended.
UNSENT_BEFORE = """
    SELECT last.topic, last.message_key, earlier.id, earlier.status
    FROM django_outbox_outboxmessage AS last
    CROSS JOIN unnest(%s::text[]) AS wanted(status)
    CROSS JOIN LATERAL (
        SELECT id, status
        FROM django_outbox_outboxmessage AS message
        WHERE message.topic = last.topic
          AND message.message_key = last.message_key
          AND message.source = last.source
          AND message.status = ANY(ARRAY[wanted.status])
          AND message.status IN ('pending', 'dead')
          AND (message.status, message.id) < (wanted.status, last.id)
          AND message.id <> ALL(%s::bigint[])
        ORDER BY message.status, message.id
        LIMIT 1
    ) AS earlier
    WHERE last.id = ANY(%s::bigint[])
"""

# Pending messages whatever their keys, and dead ones key by key. In one statement: two would both miss a message that an
# operator retries between them.
PENDING_AND_DEAD_BEFORE = f"({PENDING_BEFORE}) UNION ALL ({UNSENT_BEFORE})"

# Lock later messages of the keys of some messages that are due before them, skipping those locked by other relays.
# Behind a dead message only due ones: the others wait already. Nothing in a batch is due before its first message, so an
# earlier message that is due no later postpones nothing; usually another relay is sending it.
LATER = """
    SELECT later.id, due.until::text
    FROM django_outbox_outboxmessage AS earlier
    CROSS JOIN LATERAL (
        SELECT coalesce(earlier.next_retry_at, statement_timestamp() + make_interval(secs => %s)) AS until
    ) AS due
    JOIN django_outbox_outboxmessage AS later
      ON later.topic = earlier.topic
     AND later.message_key = earlier.message_key
     AND later.source = earlier.source
     AND later.id > earlier.id
    WHERE earlier.id = ANY(%s::bigint[])
      AND earlier.status IN ('pending', 'dead')
      AND coalesce(earlier.next_retry_at, 'infinity') > coalesce(
          (SELECT next_retry_at FROM django_outbox_outboxmessage WHERE id = %s), '-infinity'
      )
      AND later.status = 'pending'
      AND later.next_retry_at < coalesce(earlier.next_retry_at, statement_timestamp())
    FOR UPDATE OF later SKIP LOCKED
"""

# Postpone the messages that LATER locked. In one statement, PostgreSQL with stale statistics joined a hundred thousand
# rows with all rows one by one.
POSTPONE = """
    UPDATE django_outbox_outboxmessage
    SET next_retry_at = %s::timestamptz, updated_at = statement_timestamp()
    WHERE id = ANY(%s::bigint[]) AND status LIKE 'pending'
"""

# Pending to published. The repeated ids and CASE keep PostgreSQL with stale statistics from reading all rows, or from
# comparing each row with each id.
MARK_PUBLISHED = """
    UPDATE django_outbox_outboxmessage AS message
    SET status = 'published',
        publish_count = acknowledged.attempt,
        "partition" = acknowledged."partition",
        "offset" = acknowledged."offset",
        published_at = statement_timestamp(),
        updated_at = statement_timestamp(),
        next_retry_at = NULL,
        last_error = ''
    FROM unnest(%s::bigint[], %s::int[], %s::int[], %s::bigint[])
         AS acknowledged(id, attempt, "partition", "offset")
    WHERE message.id = acknowledged.id
      AND message.id = ANY(%s::bigint[])
      AND CASE message.status WHEN 'pending' THEN true ELSE false END
      AND message.publish_count = acknowledged.attempt - 1
"""

# Lock messages by id, so that two sessions cannot deadlock.
LOCK = """
    SELECT id, source, event_id::text, event_type, event_version, topic, message_key, created_at, status, publish_count,
           delivery_count, retry_count, max_retry, "partition", "offset", content_type, raw_value,
           headers::text, payload::text
    FROM django_outbox_outboxmessage
    WHERE id = ANY(%s::bigint[])
    ORDER BY id
    FOR UPDATE
"""

# For UNHANDLED_BEFORE, the first published message before ``mine`` that is not in the batch. The relay's and Debezium's
# are in an index each, by event type.
_PUBLISHED_BEFORE = """
    SELECT of_type.*
    FROM unnest(%(known_types)s::text[]) AS known(event_type)
    CROSS JOIN LATERAL (
        SELECT id, status, next_retry_at, "partition", "offset", published_at
        FROM django_outbox_outboxmessage AS message
        WHERE message.topic = mine.topic AND message.message_key = mine.message_key
          AND message.source = mine.source
          AND message.status = 'published' AND message.event_type = known.event_type
          AND message."partition" {place} AND message.id = message.id + 0
          AND (message.event_type, message.id) < (known.event_type, mine.id)
          AND message.id <> ALL(%(ids)s::bigint[])
        ORDER BY message.id LIMIT 1
    ) AS of_type
    ORDER BY of_type.id LIMIT 1
"""

# For some messages of a batch, those that must be handled before them and are not in the batch: dead and holding the key,
# pending, published by the relay or, for a message that the relay sent, by Debezium. Two messages of Debezium come in the
# order of their commits. Each is one step into an index; as in UNSENT_BEFORE, the primary key is of no use. The fifth
# column is true if the earlier one's record comes later; a later record with a lower offset means that the topic has lost
# its records. The last is for how long Debezium carries it.
UNHANDLED_BEFORE = f"""
    SELECT mine.id, earlier.id, earlier.status, earlier.next_retry_at,
           earlier."partition" = mine."partition" AND earlier."offset" > mine."offset"
           AND earlier.published_at >= mine.published_at,
           CASE WHEN earlier.status = 'published' AND earlier."partition" IS NULL
           THEN statement_timestamp() - earlier.published_at END
    FROM django_outbox_outboxmessage AS mine
    CROSS JOIN LATERAL (
        (
            SELECT id, status, next_retry_at, "partition", "offset", published_at
            FROM django_outbox_outboxmessage AS message
            WHERE message.topic = mine.topic AND message.message_key = mine.message_key
              AND message.source = mine.source
              AND message.status IN ('pending', 'dead') AND message.status >= 'dead'
              AND (message.status, message.id) < ('dead', mine.id) AND %(dead)s
            ORDER BY message.status, message.id LIMIT 1
        ) UNION ALL (
            SELECT id, status, next_retry_at, "partition", "offset", published_at
            FROM django_outbox_outboxmessage AS message
            WHERE message.topic = mine.topic AND message.message_key = mine.message_key
              AND message.source = mine.source
              AND message.status IN ('pending', 'dead') AND message.status >= 'pending'
              AND (message.status, message.id) < ('pending', mine.id)
            ORDER BY message.status, message.id LIMIT 1
        ) UNION ALL (
            {_PUBLISHED_BEFORE.format(place="IS NOT NULL")}
        ) UNION ALL (
            {_PUBLISHED_BEFORE.format(place='IS NULL AND mine."partition" IS NOT NULL')}
        )
    ) AS earlier
    WHERE mine.id = ANY(%(mine)s::bigint[]) AND mine.message_key <> ''
"""  # noqa: S608  # of constants

# Published to consumed.
MARK_CONSUMED = """
    UPDATE django_outbox_outboxmessage AS message
    SET status = 'consumed', consumed_at = statement_timestamp(), updated_at = statement_timestamp(), last_error = ''
    FROM unnest(%s::bigint[], %s::int[]) AS handled(id, attempt)
    WHERE message.id = handled.id
      AND message.id = ANY(%s::bigint[])
      AND message.status = 'published'
      AND message.publish_count = handled.attempt
"""

# Of a slot that is being created, the confirmed position is NULL. What was lost will never be read.
LOG_POSITION = """
    SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint, pg_snapshot_xmin(pg_current_snapshot())::text,
           (slot.confirmed_flush_lsn - '0/0')::bigint, coalesce(slot.active, false)
    FROM (SELECT) AS one
    LEFT JOIN pg_replication_slots AS slot
      ON slot.slot_name = %s AND slot.database = current_database() AND slot.wal_status IS DISTINCT FROM 'lost'
"""

# Whether a row was written by a transaction with an older id, or so long ago that one which has not ended since does not
# count. age() compares ids that wrap around.
IS_OLDER = "(age(xmin) > age(%s::xid8::xid) OR published_at < statement_timestamp() - interval '1 hour')"
