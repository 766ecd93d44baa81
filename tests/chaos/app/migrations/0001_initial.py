from django.db import migrations, models
from django.db.models.functions import Now


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            name="Departure",
            fields=[
                ("number", models.IntegerField(primary_key=True, serialize=False)),
                ("tail", models.CharField(max_length=16)),
                ("publisher", models.IntegerField()),
                ("created_at", models.DateTimeField(db_default=Now())),
            ],
        ),
        migrations.CreateModel(
            name="Leg",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("number", models.IntegerField(db_index=True)),
                ("tail", models.CharField(db_index=True, max_length=16)),
                ("sequence", models.IntegerField(help_text="from 1, for each airplane")),
                ("miles", models.BigIntegerField(help_text="of the airplane's flights so far")),
                ("created_at", models.DateTimeField(db_default=Now())),
            ],
        ),
    ]
