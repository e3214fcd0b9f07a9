"""The notes on the index page's wall."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [("users", "0001_initial")]

    operations = [
        migrations.CreateModel(
            name='Note',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('author', models.CharField(max_length=6)),
                ('text', models.CharField(max_length=140)),
                ('posted_at', models.DateTimeField(auto_now_add=True)),
            ],
        ),
    ]
