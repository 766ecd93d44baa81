from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("django_outbox", "0009_lanes")]

    operations = [
        *[
            migrations.AddField(
                model,
                "content_type",
                models.CharField(blank=True, db_default="application/json", default="application/json", max_length=255),
            )
            for model in ("InboxMessage", "OutboxMessage")
        ],
        migrations.AddField("OutboxMessage", "raw_value", models.BinaryField(null=True)),
    ]
