"""An app of one's own, made with `startapp`: tests, types and packaging find it by themselves."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Project, edit, run

# As Django's tutorial writes them: without types.
POLLS = {
    "admin.py": """
from django.contrib import admin

from polls.models import Question


@admin.register(Question)
class QuestionAdmin(admin.ModelAdmin):
    list_display = ["text", "is_long"]

    def is_long(self, question):
        return len(question.text) > 100
""",
    "models.py": """
from django.db import models


class Question(models.Model):
    text = models.CharField(max_length=200)

    def __str__(self):
        return self.text
""",
    "tests.py": """
from django.test import SimpleTestCase

from polls.models import Question


class QuestionTests(SimpleTestCase):
    def test_a_question_is_its_text(self):
        self.assertEqual(str(Question(text="Why?")), "Why?")

    def test_that_fails(self):
        self.assertEqual(str(Question(text="Why?")), "How?")
""",
    "views.py": """
from django.shortcuts import get_object_or_404, render

from polls.models import Question


def detail(request, pk):
    question = get_object_or_404(Question, pk=pk)
    return render(request, "polls/detail.html", {"question": question})
""",
}


@pytest.fixture(scope="module")
def polls(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project with a new app, and no line about it but the one in INSTALLED_APPS."""
    copy = project.copy(tmp_path_factory.mktemp("apps") / "project")
    copy.run("manage.py", "startapp", "polls")
    for name, code in POLLS.items():
        assert (copy.path / "polls" / name).exists()
        edit(copy.path / "polls" / name, code.lstrip())
    settings = copy.path / "project" / "settings.py"
    edit(settings, settings.read_text() + 'INSTALLED_APPS += ["polls"]\n')
    return copy


def test_the_tests_of_a_new_app_are_found_and_one_that_fails_fails_the_run(polls: Project) -> None:
    result = polls.run("-m", "pytest", "-k", "QuestionTests", check=False)
    assert result.returncode == 1
    assert "FAILED polls/tests.py::QuestionTests::test_that_fails" in result.stdout
    assert "1 failed, 1 passed" in result.stdout


def test_a_new_app_needs_no_types_and_the_websocket_app_has_to_have_all(
    polls: Project, mypy: Callable[..., str]
) -> None:
    metrics = polls.path / "websocket" / "metrics.py"
    before = metrics.read_text()
    edit(metrics, f"{before}\n\ndef untyped(value):\n    return value\n")
    line = before.count("\n") + 3
    try:
        printed = mypy(polls.path, check=False)
    finally:
        edit(metrics, before)
    assert printed.splitlines()[:-1] == [
        f"websocket/metrics.py:{line}: error: Function is missing a type annotation  "
        "[no-untyped-def]"
    ]


def test_ruff_checks_a_new_app_and_finds_nothing(polls: Project) -> None:
    views = polls.path / "polls" / "views.py"
    polls.run("-m", "ruff", "check", "--no-cache", ".")
    before = views.read_text()
    edit(views, f"import os\n{before}")
    try:
        result = polls.run("-m", "ruff", "check", "--no-cache", ".", check=False)
    finally:
        edit(views, before)
    assert "views.py:1:8" in result.stdout


def test_a_new_app_is_packaged_and_what_is_no_code_is_not(polls: Project, tmp_path: Path) -> None:
    run(
        *(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", polls.python),
        *("--no-deps", "--target", tmp_path, polls.path),
    )
    apps = {path.parent.name for path in tmp_path.glob("*/__init__.py")}
    assert apps == {"chat", "polls", "project", "users", "websocket"}
    assert (tmp_path / "polls" / "migrations" / "__init__.py").exists()
    assert (tmp_path / "users" / "templates" / "index.html").exists()
    assert not (tmp_path / "docs").exists()
