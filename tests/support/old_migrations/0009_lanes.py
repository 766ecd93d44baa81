from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("django_outbox", "0008_pauses")]

    operations = [
        migrations.AddField("Worker", "lanes", models.PositiveIntegerField(db_default=1, default=1)),
        migrations.AddField("Worker", "busy_lanes", models.PositiveIntegerField(db_default=0, default=0)),
        migrations.AddField("Worker", "in_progress", models.PositiveIntegerField(db_default=0, default=0)),
        migrations.AddField("Worker", "busy_since", models.DateTimeField(null=True)),
        migrations.AddField("Worker", "busy_key", models.CharField(db_default="", default="", max_length=506)),
    ]
