"""Pauses of event types and handlers."""

from django.db import migrations, models

import django_outbox.models.fields as fields


class Migration(migrations.Migration):
    dependencies = [("django_outbox", "0007_source")]

    operations = [
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
    ]
