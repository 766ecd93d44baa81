"""Indexes for the order of keys with messages that Debezium carries."""

from django.db import migrations
from django.db.models import F, Q

from django_outbox.models.fields import PartialIndex
from django_outbox.models.storage import add_debezium_index, remove_debezium_index

KEY_SENT = "django_outbox_key_sent"


class Migration(migrations.Migration):
    dependencies = [("django_outbox", "0001_initial")]

    operations = [
        migrations.RemoveIndex("OutboxMessage", KEY_SENT),
        migrations.AddIndex(
            "OutboxMessage",
            PartialIndex(
                name=KEY_SENT,
                fields=["topic", "message_key", "source", "event_type", "id"],
                where=Q(status="published", partition__isnull=False, id=F("id") + 0),
                without_on_mysql=["source"],
            ),
        ),
        migrations.RunPython(add_debezium_index, remove_debezium_index, hints={"model_name": "outboxmessage"}),
    ]
