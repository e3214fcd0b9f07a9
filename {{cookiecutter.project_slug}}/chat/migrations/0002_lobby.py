"""A room to begin with."""

from django.db import migrations


def add_lobby(apps, schema_editor):
    apps.get_model("chat", "Room").objects.create(name="Lobby", slug="lobby")


class Migration(migrations.Migration):

    dependencies = [("chat", "0001_initial")]

    operations = [migrations.RunPython(add_lobby, migrations.RunPython.noop)]
