"""Indexes for what is published: by key and by place."""

from django.db import migrations, models

import django_outbox.models.fields


class Migration(migrations.Migration):
    dependencies = [
        ("django_outbox", "0001_initial"),
    ]

    operations = [
        migrations.RemoveIndex(
            model_name="outboxmessage",
            name="django_outbox_key",
        ),
        migrations.AddIndex(
            model_name="outboxmessage",
            index=django_outbox.models.fields.PartialIndex(
                fields=["topic", "message_key", "status", "id"],
                name="django_outbox_key",
                where=models.Q(("status__in", ["pending", "dead"])),
            ),
        ),
        migrations.AddIndex(
            model_name="outboxmessage",
            index=django_outbox.models.fields.PartialIndex(
                fields=["topic", "message_key", "event_type", "id"],
                name="django_outbox_key_sent",
                where=models.Q(("status", "published")),
            ),
        ),
        migrations.AddIndex(
            model_name="outboxmessage",
            index=django_outbox.models.fields.PartialIndex(
                fields=["event_type", "topic", "partition", "offset"],
                name="django_outbox_place",
                where=models.Q(("publish_count__gt", 0), ("status", "published")),
            ),
        ),
    ]
