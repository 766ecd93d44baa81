"""All tables. Existing databases never had another first migration: nothing was released before it."""

import django.db.models.deletion
from django.db import migrations, models

import django_outbox.models.fields
import django_outbox.models.outbox
from django_outbox.models.storage import apply_storage, remove_storage


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Activity",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("period", models.DateTimeField(unique=True, verbose_name="period")),
                ("last_id", models.BigIntegerField(default=0, verbose_name="largest id of a message")),
                ("published", models.PositiveBigIntegerField(default=0, verbose_name="published")),
                ("consumed", models.PositiveBigIntegerField(default=0, verbose_name="consumed")),
                (
                    "inbox_received",
                    models.PositiveBigIntegerField(db_default=0, default=0, verbose_name="received by the inbox"),
                ),
                (
                    "inbox_consumed",
                    models.PositiveBigIntegerField(db_default=0, default=0, verbose_name="consumed of the inbox"),
                ),
            ],
            options={
                "verbose_name": "activity",
                "verbose_name_plural": "activities",
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Worker",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "kind",
                    django_outbox.models.fields.ExactCharField(
                        choices=[("relay", "relay"), ("consumer", "consumer")], max_length=16, verbose_name="kind"
                    ),
                ),
                ("host", models.CharField(max_length=255, verbose_name="host")),
                ("pid", models.PositiveBigIntegerField(verbose_name="process id")),
                (
                    "group",
                    django_outbox.models.fields.ExactCharField(
                        blank=True, db_default="", default="", max_length=249, verbose_name="consumer group"
                    ),
                ),
                (
                    "source",
                    django_outbox.models.fields.ExactCharField(
                        db_default=django_outbox.models.fields.CurrentSource(),
                        default=django_outbox.models.fields.current_source,
                        max_length=255,
                        verbose_name="source",
                    ),
                ),
                (
                    "topics",
                    models.CharField(blank=True, db_default="", default="", max_length=1000, verbose_name="topics"),
                ),
                ("version", models.CharField(max_length=32, verbose_name="version")),
                (
                    "started_at",
                    models.DateTimeField(
                        db_default=django_outbox.models.fields.DatabaseNow(), verbose_name="started at"
                    ),
                ),
                (
                    "last_seen_at",
                    models.DateTimeField(
                        db_default=django_outbox.models.fields.DatabaseNow(), verbose_name="last seen at"
                    ),
                ),
                ("rate", models.FloatField(default=0.0, verbose_name="messages a second")),
                (
                    "state",
                    django_outbox.models.fields.ExactCharField(
                        choices=[
                            ("starting", "starting"),
                            ("working", "working"),
                            ("trouble", "in trouble"),
                            ("stopping", "stopping"),
                        ],
                        default="starting",
                        max_length=16,
                        verbose_name="state",
                    ),
                ),
                ("trouble", models.CharField(blank=True, default="", max_length=1000, verbose_name="trouble")),
            ],
            options={
                "verbose_name": "worker",
                "verbose_name_plural": "workers",
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="InboxMessage",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("group", django_outbox.models.fields.ExactCharField(max_length=249, verbose_name="consumer group")),
                (
                    "source",
                    django_outbox.models.fields.ExactCharField(blank=True, max_length=255, verbose_name="source"),
                ),
                ("event_id", django_outbox.models.fields.ExactCharField(max_length=255, verbose_name="event id")),
                (
                    "event_type",
                    django_outbox.models.fields.ExactCharField(blank=True, max_length=255, verbose_name="event type"),
                ),
                ("event_version", models.CharField(default="v1", max_length=32, verbose_name="event version")),
                ("event_time", models.DateTimeField(blank=True, null=True, verbose_name="event time")),
                ("topic", django_outbox.models.fields.ExactCharField(max_length=249, verbose_name="topic")),
                ("partition", models.IntegerField(verbose_name="partition")),
                ("offset", models.BigIntegerField(verbose_name="offset")),
                (
                    "message_key",
                    django_outbox.models.fields.ExactCharField(
                        blank=True, default="", max_length=255, verbose_name="key"
                    ),
                ),
                ("payload", models.JSONField(blank=True, null=True, verbose_name="payload")),
                ("headers", models.JSONField(blank=True, default=dict, verbose_name="headers")),
                ("raw_key", models.BinaryField(blank=True, null=True, verbose_name="key as received")),
                ("raw_value", models.BinaryField(blank=True, null=True, verbose_name="value as received")),
                (
                    "status",
                    django_outbox.models.fields.ExactCharField(
                        choices=[("pending", "pending"), ("consumed", "consumed"), ("dead", "dead")],
                        default="pending",
                        max_length=8,
                        verbose_name="status",
                    ),
                ),
                ("delivery_count", models.PositiveIntegerField(default=0, verbose_name="deliveries")),
                ("retry_count", models.PositiveIntegerField(default=0, verbose_name="failures")),
                (
                    "max_retry",
                    models.PositiveIntegerField(
                        default=django_outbox.models.outbox.default_max_retry, verbose_name="failures allowed"
                    ),
                ),
                (
                    "next_retry_at",
                    models.DateTimeField(
                        blank=True,
                        db_default=django_outbox.models.fields.DatabaseNow(),
                        null=True,
                        verbose_name="due at",
                    ),
                ),
                ("last_error", models.TextField(blank=True, default="", verbose_name="last error")),
                (
                    "fingerprint",
                    django_outbox.models.fields.ExactCharField(
                        blank=True, db_default="", default="", max_length=200, verbose_name="fingerprint"
                    ),
                ),
                (
                    "created_at",
                    models.DateTimeField(
                        db_default=django_outbox.models.fields.DatabaseNow(), verbose_name="created at"
                    ),
                ),
                (
                    "updated_at",
                    models.DateTimeField(
                        db_default=django_outbox.models.fields.DatabaseNow(), verbose_name="updated at"
                    ),
                ),
                ("consumed_at", models.DateTimeField(blank=True, null=True, verbose_name="consumed at")),
            ],
            options={
                "verbose_name": "inbox message",
                "verbose_name_plural": "inbox messages",
                "permissions": [
                    ("retry_inboxmessage", "Can retry dead letters of the inbox"),
                    ("edit_inboxmessage", "Can edit the payload of dead letters of the inbox"),
                    ("delete_inboxmessage", "Can delete dead letters of the inbox"),
                    ("see_payload_inboxmessage", "Can see secret values and unreadable records in the inbox"),
                ],
                "default_permissions": ("view",),
                "indexes": [
                    django_outbox.models.fields.PartialIndex(
                        fields=["group", "next_retry_at", "id"],
                        name="django_outbox_inbox_due",
                        where=models.Q(("status", "pending")),
                    ),
                    django_outbox.models.fields.PartialIndex(
                        fields=["group", "topic", "message_key", "status", "id"],
                        name="django_outbox_inbox_key",
                        where=models.Q(("status__in", ["pending", "dead"])),
                    ),
                    django_outbox.models.fields.PartialIndex(
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
                    django_outbox.models.fields.ExactCharField(
                        db_default=django_outbox.models.fields.CurrentSource(),
                        default=django_outbox.models.fields.current_source,
                        max_length=255,
                        verbose_name="source",
                    ),
                ),
                (
                    "event_id",
                    models.UUIDField(default=django_outbox.models.fields.uuid7, unique=True, verbose_name="event id"),
                ),
                ("event_type", django_outbox.models.fields.ExactCharField(max_length=255, verbose_name="event type")),
                ("event_version", models.CharField(default="v1", max_length=32, verbose_name="event version")),
                ("topic", django_outbox.models.fields.ExactCharField(max_length=249, verbose_name="topic")),
                (
                    "message_key",
                    django_outbox.models.fields.ExactCharField(
                        blank=True, default="", max_length=255, verbose_name="key"
                    ),
                ),
                ("payload", models.JSONField(verbose_name="payload")),
                ("headers", models.JSONField(blank=True, default=dict, verbose_name="headers")),
                (
                    "status",
                    django_outbox.models.fields.ExactCharField(
                        choices=[
                            ("pending", "pending"),
                            ("published", "published"),
                            ("consumed", "consumed"),
                            ("dead", "dead"),
                        ],
                        default="pending",
                        max_length=9,
                        verbose_name="status",
                    ),
                ),
                ("publish_count", models.PositiveIntegerField(default=0, verbose_name="times published")),
                ("delivery_count", models.PositiveIntegerField(default=0, verbose_name="deliveries")),
                ("retry_count", models.PositiveIntegerField(default=0, verbose_name="failures")),
                (
                    "max_retry",
                    models.PositiveIntegerField(
                        default=django_outbox.models.outbox.default_max_retry, verbose_name="failures allowed"
                    ),
                ),
                (
                    "next_retry_at",
                    models.DateTimeField(
                        blank=True,
                        db_default=django_outbox.models.fields.DatabaseNow(),
                        null=True,
                        verbose_name="due at",
                    ),
                ),
                ("last_error", models.TextField(blank=True, default="", verbose_name="last error")),
                (
                    "fingerprint",
                    django_outbox.models.fields.ExactCharField(
                        blank=True, db_default="", default="", max_length=200, verbose_name="fingerprint"
                    ),
                ),
                ("partition", models.IntegerField(blank=True, null=True, verbose_name="partition")),
                ("offset", models.BigIntegerField(blank=True, null=True, verbose_name="offset")),
                (
                    "created_at",
                    models.DateTimeField(
                        db_default=django_outbox.models.fields.DatabaseNow(), verbose_name="created at"
                    ),
                ),
                (
                    "updated_at",
                    models.DateTimeField(
                        db_default=django_outbox.models.fields.DatabaseNow(), verbose_name="updated at"
                    ),
                ),
                ("published_at", models.DateTimeField(blank=True, null=True, verbose_name="published at")),
                ("consumed_at", models.DateTimeField(blank=True, null=True, verbose_name="consumed at")),
            ],
            options={
                "verbose_name": "outbox message",
                "verbose_name_plural": "outbox messages",
                "permissions": [
                    ("retry_outboxmessage", "Can retry dead letters"),
                    ("edit_outboxmessage", "Can edit the payload of dead letters"),
                    ("delete_outboxmessage", "Can delete dead letters"),
                    ("see_payload_outboxmessage", "Can see secret values in payloads"),
                ],
                "default_permissions": ("view",),
                "indexes": [
                    django_outbox.models.fields.PartialIndex(
                        fields=["source", "next_retry_at", "id"],
                        name="django_outbox_due",
                        where=models.Q(("next_retry_at__isnull", False), ("status", "pending")),
                    ),
                    django_outbox.models.fields.PartialIndex(
                        fields=["topic", "message_key", "source", "status", "id"],
                        name="django_outbox_key",
                        where=models.Q(("status__in", ["pending", "dead"])),
                        without_on_mysql=["source"],
                    ),
                    django_outbox.models.fields.PartialIndex(
                        fields=["topic", "message_key", "source", "event_type", "id"],
                        name="django_outbox_key_sent",
                        where=models.Q(("status", "published")),
                        without_on_mysql=["source"],
                    ),
                    django_outbox.models.fields.PartialIndex(
                        fields=["source", "event_type", "topic", "partition", "offset"],
                        name="django_outbox_place",
                        where=models.Q(("publish_count__gt", 0), ("status", "published")),
                    ),
                    django_outbox.models.fields.PartialIndex(
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
            name="MessageFailure",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "occurred_at",
                    models.DateTimeField(
                        db_default=django_outbox.models.fields.DatabaseNow(), verbose_name="occurred at"
                    ),
                ),
                ("worker", models.CharField(max_length=255, verbose_name="worker")),
                (
                    "stage",
                    django_outbox.models.fields.ExactCharField(
                        choices=[("send", "sending"), ("handle", "handling")], max_length=6, verbose_name="stage"
                    ),
                ),
                ("attempt", models.PositiveIntegerField(verbose_name="attempt")),
                ("published_at", models.DateTimeField(null=True, verbose_name="published at")),
                ("partition", models.IntegerField(null=True, verbose_name="partition")),
                ("offset", models.BigIntegerField(null=True, verbose_name="offset")),
                ("final", models.BooleanField(verbose_name="message was given up")),
                ("error", models.TextField(verbose_name="error")),
                ("fingerprint", django_outbox.models.fields.ExactCharField(max_length=200, verbose_name="fingerprint")),
                (
                    "inbox_message",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="failures",
                        to="django_outbox.inboxmessage",
                        verbose_name="inbox message",
                    ),
                ),
                (
                    "message",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
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
                    django_outbox.models.fields.PartialIndex(
                        fields=["occurred_at"], name="django_outbox_given_up", where=models.Q(("final", True))
                    )
                ],
            },
        ),
        migrations.RunPython(apply_storage, remove_storage, hints={"model_name": "outboxmessage"}),
    ]
