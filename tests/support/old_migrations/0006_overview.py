"""What workers say of themselves: their group and topics; and what they did for the inbox, apart.

The defaults are the database's: workers of an older release go on writing their rows meanwhile.
"""

from django.db import migrations, models

import django_outbox.models.fields


class Migration(migrations.Migration):
    dependencies = [("django_outbox", "0005_operations")]

    operations = [
        migrations.AddField(
            model_name="activity",
            name="inbox_consumed",
            field=models.PositiveBigIntegerField(db_default=0, default=0, verbose_name="consumed of the inbox"),
        ),
        migrations.AddField(
            model_name="activity",
            name="inbox_received",
            field=models.PositiveBigIntegerField(db_default=0, default=0, verbose_name="received by the inbox"),
        ),
        migrations.AddField(
            model_name="worker",
            name="group",
            field=django_outbox.models.fields.ExactCharField(
                blank=True, db_default="", default="", max_length=249, verbose_name="consumer group"
            ),
        ),
        migrations.AddField(
            model_name="worker",
            name="topics",
            field=models.CharField(blank=True, db_default="", default="", max_length=1000, verbose_name="topics"),
        ),
    ]
