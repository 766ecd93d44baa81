"""The weights that shipping knows."""

from django.db import migrations

GRAMS = {"teapot": 900, "desk-lamp": 1_400, "cookbook": 750, "umbrella": 480}


def add_weights(apps, schema_editor):
    weights = apps.get_model("shipping", "ParcelWeight").objects.using(schema_editor.connection.alias)
    weights.bulk_create(weights.model(item=item, grams=grams) for item, grams in GRAMS.items())


class Migration(migrations.Migration):
    dependencies = [("shipping", "0001_initial")]
    operations = [migrations.RunPython(add_weights, migrations.RunPython.noop)]
