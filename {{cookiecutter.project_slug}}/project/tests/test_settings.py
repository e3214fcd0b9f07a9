"""The settings, as they are once the environment has had its say."""

import ast
import os
import subprocess
import sys
from typing import Any
from unittest import SkipTest

import django
from django.conf import settings
from django.test import SimpleTestCase

PRODUCTION = {
    "ALLOWED_HOSTS": "example.com",
    "DATABASE_URL": "sqlite://:memory:",
    "DEBUG": "false",
    "SECRET_KEY": "a-key-of-more-than-fifty-characters-for-the-tests-only-0123456789",
}


def evaluate(expression: str, **env: str) -> Any:
    """Return what the expression is in a process with these variables."""
    code = f"from django.conf import settings; print({expression})"
    return subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=settings.BASE_DIR,
        encoding="utf-8",
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "project.settings", **PRODUCTION, **env},
        stdout=subprocess.PIPE,
    ).stdout.strip()


class SettingsTests(SimpleTestCase):
    def test_a_proxys_header_is_believed_only_where_it_is_named(self) -> None:
        assert evaluate("settings.SECURE_PROXY_SSL_HEADER", SECURE_PROXY_SSL_HEADER="") == "None"
        named = evaluate("settings.SECURE_PROXY_SSL_HEADER", SECURE_PROXY_SSL_HEADER="X-My-Proto")
        assert named == "('HTTP_X_MY_PROTO', 'https')"

    def test_postgresql_has_a_pool(self) -> None:
        url = "postgres://user:password@localhost/name?sslmode=require"
        options = evaluate("settings.DATABASES['default']['OPTIONS']", DATABASE_URL=url)
        assert "'sslmode': 'require'" in options
        assert "'pool': {'min_size': 1, 'max_size': 16, 'timeout': 5}" in options

    def test_the_url_of_the_database_goes_before_the_settings(self) -> None:
        url = "postgres://user:password@localhost/name?tcp_user_timeout=30000"
        options = evaluate("settings.DATABASES['default']['OPTIONS']", DATABASE_URL=url)
        assert "'tcp_user_timeout': 30000" in options
        assert "'keepalives_idle': 5" in options

    def test_a_database_that_falls_silent_is_given_up_within_seconds(self) -> None:
        url = "postgres://user:password@localhost/name"
        printed = evaluate("settings.DATABASES['default']['OPTIONS']", DATABASE_URL=url)
        options = ast.literal_eval(printed)
        assert options["connect_timeout"] <= 5
        probes = options["keepalives_interval"] * options["keepalives_count"]
        assert options["keepalives_idle"] + probes <= 9
        assert options["tcp_user_timeout"] <= 9000  # Milliseconds.

    def test_the_log_is_json_where_the_environment_says_so(self) -> None:
        formatter = "settings.LOGGING['handlers']['console']['formatter']"
        assert evaluate(formatter) == "line"
        assert evaluate(formatter, LOG_JSON="true") == "json"


class ContentSecurityPolicyTests(SimpleTestCase):
    def setUp(self) -> None:
        if django.VERSION < (6, 0):
            raise SkipTest("This Django has no SECURE_CSP.")

    def test_pages_load_and_connect_to_this_site_alone(self) -> None:
        policy = self.client.get("/")["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
