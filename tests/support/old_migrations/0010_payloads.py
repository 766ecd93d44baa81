from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("django_outbox", "0009_lanes")]

    operations = [
        *[
            migrations.AddField(model, "content_type", models.CharField(max_length=255, null=True))
            for model in ("InboxMessage", "OutboxMessage")
        ],
        migrations.AddField("OutboxMessage", "raw_value", models.BinaryField(null=True)),
    ]
