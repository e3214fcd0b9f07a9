"""`manage.py runserver`, which serves sockets."""

from io import StringIO

import django
from django.core.management import get_commands
from django.test import TestCase

from project.management.commands.runserver import Command


class RunserverTests(TestCase):
    def test_it_takes_the_place_of_djangos(self) -> None:
        assert get_commands()["runserver"] == "project"

    def test_it_checks_the_project_and_says_where_it_serves(self) -> None:
        output = StringIO()
        Command(stdout=output).begin("http://127.0.0.1:8000/", skip_checks=False)
        printed = output.getvalue()
        assert "System check identified no issues" in printed
        assert f"Django version {django.get_version()}, using settings 'project" in printed
        assert "development server at http://127.0.0.1:8000/" in printed
