from django.db import migrations, models

KEYS = 1_000


def add_keys(apps, schema_editor):
    names = [f"account-{number}" for number in range(KEYS)]
    for model in (apps.get_model("soak", "Account"), apps.get_model("soak", "Ledger")):
        model.objects.bulk_create(model(key=name) for name in names)


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            name="Account",
            fields=[
                ("key", models.CharField(max_length=16, primary_key=True, serialize=False)),
                ("handled", models.BigIntegerField(default=0)),
            ],
        ),
        migrations.CreateModel(
            name="Ledger",
            fields=[
                ("key", models.CharField(max_length=16, primary_key=True, serialize=False)),
                ("published", models.BigIntegerField(default=0)),
            ],
        ),
        migrations.RunPython(add_keys),
    ]
