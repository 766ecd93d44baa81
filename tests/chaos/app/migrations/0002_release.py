from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("chaos", "0001_initial")]
    operations = [
        migrations.AddField(
            model_name="leg",
            name="release",
            field=models.SmallIntegerField(help_text="of the handler; NULL: the first", null=True),
        ),
    ]
