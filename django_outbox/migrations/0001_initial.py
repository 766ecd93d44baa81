"""All tables. Existing databases never had another first migration: nothing was released before it."""

from django.db import migrations, models

from django_outbox.models import fields
from django_outbox.models.message import default_max_retry
from django_outbox.models.storage import apply_storage, remove_storage


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Activity",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("period", models.DateTimeField("period", unique=True)),
                ("last_id", models.BigIntegerField("largest id of a message", default=0)),
                ("published", models.PositiveBigIntegerField("published", default=0)),
                ("consumed", models.PositiveBigIntegerField("consumed", default=0)),
                ("inbox_received", models.PositiveBigIntegerField("received by the inbox", db_default=0, default=0)),
                ("inbox_consumed", models.PositiveBigIntegerField("consumed of the inbox", db_default=0, default=0)),
            ],
            options={"verbose_name": "activity", "verbose_name_plural": "activities", "default_permissions": ()},
        ),
        migrations.CreateModel(
            name="Worker",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "kind",
                    fields.ExactCharField(
                        "kind", choices=[("relay", "relay"), ("consumer", "consumer")], max_length=16
                    ),
                ),
                ("host", models.CharField("host", max_length=255)),
                ("pid", models.PositiveBigIntegerField("process id")),
                (
                    "group",
                    fields.ExactCharField("consumer group", blank=True, db_default="", default="", max_length=249),
                ),
                (
                    "source",
                    fields.ExactCharField(
                        "source", db_default=fields.CurrentSource(), default=fields.current_source, max_length=255
                    ),
                ),
                ("topics", models.CharField("topics", blank=True, db_default="", default="", max_length=1000)),
                ("version", models.CharField("version", max_length=32)),
                ("started_at", models.DateTimeField("started at", db_default=fields.DatabaseNow())),
                ("last_seen_at", models.DateTimeField("last seen at", db_default=fields.DatabaseNow())),
                ("rate", models.FloatField("messages a second", default=0.0)),
                (
                    "state",
                    fields.ExactCharField(
                        "state",
                        choices=[
                            ("starting", "starting"),
                            ("working", "working"),
                            ("trouble", "in trouble"),
                            ("stopping", "stopping"),
                        ],
                        default="starting",
                        max_length=16,
                    ),
                ),
                ("trouble", models.CharField("trouble", blank=True, default="", max_length=1000)),
                ("lanes", models.PositiveIntegerField("lanes", db_default=1, default=1)),
                ("busy_lanes", models.PositiveIntegerField("busy lanes", db_default=0, default=0)),
                ("in_progress", models.PositiveIntegerField("messages in progress", db_default=0, default=0)),
                ("busy_since", models.DateTimeField("busy since", null=True)),
                (
                    "busy_key",
                    models.CharField("key in progress", blank=True, db_default="", default="", max_length=506),
                ),
            ],
            options={"verbose_name": "worker", "verbose_name_plural": "workers", "default_permissions": ()},
        ),
        migrations.CreateModel(
            name="InboxMessage",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("group", fields.ExactCharField("consumer group", max_length=249)),
                ("source", fields.ExactCharField("source", blank=True, max_length=255)),
                ("event_id", fields.ExactCharField("event id", max_length=255)),
                ("event_type", fields.ExactCharField("event type", blank=True, max_length=255)),
                ("event_version", models.CharField("event version", default="v1", max_length=32)),
                ("event_time", models.DateTimeField("event time", blank=True, null=True)),
                ("topic", fields.ExactCharField("topic", max_length=249)),
                ("partition", models.IntegerField("partition")),
                ("offset", models.BigIntegerField("offset")),
                ("message_key", fields.ExactCharField("key", blank=True, default="", max_length=255)),
                ("payload", models.JSONField("payload", blank=True, null=True)),
                ("headers", models.JSONField("headers", blank=True, default=dict)),
                ("content_type", models.CharField("content type", blank=True, max_length=255, null=True)),
                ("raw_key", models.BinaryField("key as received", blank=True, null=True)),
                ("raw_value", models.BinaryField("value as received", blank=True, null=True)),
                (
                    "status",
                    fields.ExactCharField(
                        "status",
                        choices=[("pending", "pending"), ("consumed", "consumed"), ("dead", "dead")],
                        default="pending",
                        max_length=8,
                    ),
                ),
                ("delivery_count", models.PositiveIntegerField("deliveries", default=0)),
                ("retry_count", models.PositiveIntegerField("failures", default=0)),
                ("max_retry", models.PositiveIntegerField("failures allowed", default=default_max_retry)),
                (
                    "next_retry_at",
                    models.DateTimeField("due at", blank=True, db_default=fields.DatabaseNow(), null=True),
                ),
                ("last_error", models.TextField("last error", blank=True, default="")),
                (
                    "fingerprint",
                    fields.ExactCharField("fingerprint", blank=True, db_default="", default="", max_length=200),
                ),
                ("created_at", models.DateTimeField("created at", db_default=fields.DatabaseNow())),
                ("updated_at", models.DateTimeField("updated at", db_default=fields.DatabaseNow())),
                ("consumed_at", models.DateTimeField("consumed at", blank=True, null=True)),
            ],
            options={
                "verbose_name": "inbox message",
                "verbose_name_plural": "inbox messages",
                "permissions": [
                    (
                        "retry_inboxmessage",
                        "Can retry dead letters of the inbox and handle waiting messages now",
                    ),
                    ("cancel_inboxmessage", "Can cancel pending messages of the inbox"),
                    ("edit_inboxmessage", "Can edit the payload of dead letters of the inbox"),
                    ("delete_inboxmessage", "Can delete dead letters of the inbox"),
                    ("see_payload_inboxmessage", "Can see secret values and unreadable records in the inbox"),
                ],
                "default_permissions": ("view",),
                "indexes": [
                    fields.PartialIndex(
                        fields=["group", "next_retry_at", "id"],
                        name="django_outbox_inbox_due",
                        where=models.Q(("status", "pending")),
                    ),
                    fields.PartialIndex(
                        fields=["group", "topic", "message_key", "status", "id"],
                        name="django_outbox_inbox_key",
                        where=models.Q(("status__in", ["pending", "dead"])),
                    ),
                    fields.PartialIndex(
                        fields=["status", "id"],
                        name="django_outbox_inbox_unfinished",
                        where=models.Q(("id__gt", 0), ("status__in", ["pending", "dead"])),
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("group", "source", "event_id"), name="django_outbox_inbox_identity"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("status__in", ["pending", "consumed", "dead"])),
                        name="django_outbox_inbox_status_known",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("next_retry_at__isnull", False), ("status", "pending")),
                            models.Q(models.Q(("status", "pending"), _negated=True), ("next_retry_at__isnull", True)),
                            _connector="OR",
                        ),
                        name="django_outbox_inbox_due_when_pending",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("consumed_at__isnull", False), ("status", "consumed")),
                            models.Q(models.Q(("status", "consumed"), _negated=True), ("consumed_at__isnull", True)),
                            _connector="OR",
                        ),
                        name="django_outbox_inbox_consumed_at",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="InboxDeadLetter",
            fields=[],
            options={
                "verbose_name": "inbox dead letter",
                "verbose_name_plural": "inbox dead letters",
                "proxy": True,
                "default_permissions": ("view",),
                "indexes": [],
                "constraints": [],
            },
            bases=("django_outbox.inboxmessage",),
        ),
        migrations.CreateModel(
            name="OutboxMessage",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "source",
                    fields.ExactCharField(
                        "source", db_default=fields.CurrentSource(), default=fields.current_source, max_length=255
                    ),
                ),
                ("event_id", models.UUIDField("event id", default=fields.uuid7, unique=True)),
                ("event_type", fields.ExactCharField("event type", max_length=255)),
                ("event_version", models.CharField("event version", default="v1", max_length=32)),
                ("topic", fields.ExactCharField("topic", max_length=249)),
                ("message_key", fields.ExactCharField("key", blank=True, default="", max_length=255)),
                ("payload", models.JSONField("payload")),
                ("raw_value", models.BinaryField("payload as bytes", blank=True, null=True)),
                ("headers", models.JSONField("headers", blank=True, default=dict)),
                ("content_type", models.CharField("content type", blank=True, max_length=255, null=True)),
                (
                    "status",
                    fields.ExactCharField(
                        "status",
                        choices=[
                            ("pending", "pending"),
                            ("published", "published"),
                            ("consumed", "consumed"),
                            ("dead", "dead"),
                        ],
                        default="pending",
                        max_length=9,
                    ),
                ),
                ("publish_count", models.PositiveIntegerField("times published", default=0)),
                ("delivery_count", models.PositiveIntegerField("deliveries", default=0)),
                ("retry_count", models.PositiveIntegerField("failures", default=0)),
                ("max_retry", models.PositiveIntegerField("failures allowed", default=default_max_retry)),
                (
                    "next_retry_at",
                    models.DateTimeField("due at", blank=True, db_default=fields.DatabaseNow(), null=True),
                ),
                ("last_error", models.TextField("last error", blank=True, default="")),
                (
                    "fingerprint",
                    fields.ExactCharField("fingerprint", blank=True, db_default="", default="", max_length=200),
                ),
                ("partition", models.IntegerField("partition", blank=True, null=True)),
                ("offset", models.BigIntegerField("offset", blank=True, null=True)),
                ("created_at", models.DateTimeField("created at", db_default=fields.DatabaseNow())),
                ("updated_at", models.DateTimeField("updated at", db_default=fields.DatabaseNow())),
                ("published_at", models.DateTimeField("published at", blank=True, null=True)),
                ("consumed_at", models.DateTimeField("consumed at", blank=True, null=True)),
            ],
            options={
                "verbose_name": "outbox message",
                "verbose_name_plural": "outbox messages",
                "permissions": [
                    ("retry_outboxmessage", "Can retry dead letters and send waiting messages now"),
                    ("cancel_outboxmessage", "Can cancel pending messages"),
                    ("edit_outboxmessage", "Can edit the payload of dead letters"),
                    ("delete_outboxmessage", "Can delete dead letters"),
                    ("see_payload_outboxmessage", "Can see secret values in payloads"),
                ],
                "default_permissions": ("view",),
                "indexes": [
                    fields.PartialIndex(
                        fields=["source", "next_retry_at", "id"],
                        name="django_outbox_due",
                        where=models.Q(("next_retry_at__isnull", False), ("status", "pending")),
                    ),
                    fields.PartialIndex(
                        fields=["topic", "message_key", "source", "status", "id"],
                        name="django_outbox_key",
                        where=models.Q(("status__in", ["pending", "dead"])),
                        without_on_mysql=["source"],
                    ),
                    fields.PartialIndex(
                        fields=["topic", "message_key", "source", "event_type", "id"],
                        name="django_outbox_key_sent",
                        where=models.Q(
                            ("id", models.F("id") + 0), ("partition__isnull", False), ("status", "published")
                        ),
                        without_on_mysql=["source"],
                    ),
                    fields.PartialIndex(
                        fields=["source", "event_type", "topic", "partition", "offset"],
                        name="django_outbox_place",
                        where=models.Q(("publish_count__gt", 0), ("status", "published")),
                    ),
                    fields.PartialIndex(
                        fields=["status", "id", "source"],
                        name="django_outbox_unfinished",
                        where=models.Q(("id__gt", 0), ("status__in", ["pending", "published", "dead"])),
                    ),
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("status__in", ["pending", "published", "consumed", "dead"])),
                        name="django_outbox_status_known",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("next_retry_at__isnull", False), ("status", "pending")),
                            models.Q(models.Q(("status", "pending"), _negated=True), ("next_retry_at__isnull", True)),
                            _connector="OR",
                        ),
                        name="django_outbox_due_when_pending",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("consumed_at__isnull", False), ("status", "consumed")),
                            models.Q(models.Q(("status", "consumed"), _negated=True), ("consumed_at__isnull", True)),
                            _connector="OR",
                        ),
                        name="django_outbox_consumed_at",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="DeadLetter",
            fields=[],
            options={
                "verbose_name": "dead letter",
                "verbose_name_plural": "dead letters",
                "proxy": True,
                "default_permissions": ("view",),
                "indexes": [],
                "constraints": [],
            },
            bases=("django_outbox.outboxmessage",),
        ),
        migrations.CreateModel(
            name="Overview",
            fields=[],
            options={
                "verbose_name": "overview",
                "verbose_name_plural": "overview",
                "proxy": True,
                "default_permissions": (),
                "indexes": [],
                "constraints": [],
            },
            bases=("django_outbox.outboxmessage",),
        ),
        migrations.CreateModel(
            name="EventCatalogue",
            fields=[],
            options={
                "verbose_name": "event types",
                "verbose_name_plural": "event types",
                "proxy": True,
                "default_permissions": (),
                "indexes": [],
                "constraints": [],
            },
            bases=("django_outbox.outboxmessage",),
        ),
        migrations.CreateModel(
            name="MessageFailure",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("occurred_at", models.DateTimeField("occurred at", db_default=fields.DatabaseNow())),
                ("worker", models.CharField("worker", max_length=255)),
                (
                    "stage",
                    fields.ExactCharField(
                        "stage",
                        choices=[("send", "sending"), ("handle", "handling"), ("cancel", "cancellation")],
                        max_length=6,
                    ),
                ),
                ("attempt", models.PositiveIntegerField("attempt")),
                ("published_at", models.DateTimeField("published at", null=True)),
                ("partition", models.IntegerField("partition", null=True)),
                ("offset", models.BigIntegerField("offset", null=True)),
                ("final", models.BooleanField("message was given up")),
                ("error", models.TextField("error")),
                ("fingerprint", fields.ExactCharField("fingerprint", max_length=200)),
                (
                    "inbox_message",
                    models.ForeignKey(
                        null=True,
                        on_delete=models.CASCADE,
                        related_name="failures",
                        to="django_outbox.inboxmessage",
                        verbose_name="inbox message",
                    ),
                ),
                (
                    "message",
                    models.ForeignKey(
                        null=True,
                        on_delete=models.CASCADE,
                        related_name="failures",
                        to="django_outbox.outboxmessage",
                        verbose_name="message",
                    ),
                ),
            ],
            options={
                "verbose_name": "failure",
                "verbose_name_plural": "failures",
                "default_permissions": (),
                "indexes": [
                    fields.PartialIndex(
                        fields=["occurred_at"], name="django_outbox_given_up", where=models.Q(("final", True))
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Pause",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("group", fields.ExactCharField("consumer group", max_length=249)),
                ("event_type", fields.ExactCharField("event type", blank=True, default="", max_length=255)),
                ("handler", fields.ExactCharField("handler", blank=True, default="", max_length=255)),
                ("reason", models.CharField("reason", max_length=500)),
                ("created_by", models.CharField("paused by", max_length=255)),
                ("created_at", models.DateTimeField("paused at", db_default=fields.DatabaseNow())),
                ("until", models.DateTimeField("until", null=True)),
            ],
            options={
                "verbose_name": "pause",
                "verbose_name_plural": "pauses",
                "permissions": [("change_pause", "Can pause and resume event types and handlers")],
                "default_permissions": ("view",),
                "constraints": [
                    models.UniqueConstraint(
                        fields=("group", "event_type", "handler"), name="django_outbox_pause_subject"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("event_type", ""), models.Q(("handler", ""), _negated=True)),
                            models.Q(models.Q(("event_type", ""), _negated=True), ("handler", "")),
                            _connector="OR",
                        ),
                        name="django_outbox_pause_of_one",
                    ),
                ],
            },
        ),
        migrations.RunPython(apply_storage, remove_storage, hints={"model_name": "outboxmessage"}),
    ]
