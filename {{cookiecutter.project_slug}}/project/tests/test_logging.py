"""What the log has, and what it has not."""

import json
import logging
import sys
from typing import Any

from django.conf import settings
from django.test import SimpleTestCase

from project.logging import (
    JSONFormatter,
    NoMailForVisitors,
    OneLineForVisitors,
    WithoutQueryStrings,
)


def make_record(message: str, *args: object, exc_info: object = None) -> logging.LogRecord:
    fields = {"name": "a.logger", "levelname": "INFO", "exc_info": exc_info}
    return logging.makeLogRecord({"msg": message, "args": args, **fields})


class LoggingTests(SimpleTestCase):
    def test_an_event_is_one_line_of_json(self) -> None:
        line = JSONFormatter().format(make_record("%s\nsecond line", "first"))
        assert "\n" not in line
        event = json.loads(line)
        assert event["time"].endswith("+00:00")
        assert (event["level"], event["logger"]) == ("INFO", "a.logger")
        assert event["message"] == "first\nsecond line"

    def test_a_traceback_is_in_the_same_line(self) -> None:
        try:
            raise ValueError("no good")
        except ValueError:
            line = JSONFormatter().format(make_record("oh", exc_info=sys.exc_info()))
        assert "\n" not in line
        assert json.loads(line)["exception"].endswith("ValueError: no good")

    def test_uvicorns_lines_have_no_query_strings(self) -> None:
        record = make_record('%s - "WebSocket %s" [accepted]', "1.2.3.4:5", "/ws/?token=secret")
        assert WithoutQueryStrings().filter(record)
        assert record.getMessage() == '1.2.3.4:5 - "WebSocket /ws/" [accepted]'

    def test_uvicorns_loggers_have_that_filter(self) -> None:
        for name in ("uvicorn.access", "uvicorn.error"):
            filters = logging.getLogger(name).filters
            assert any(isinstance(item, WithoutQueryStrings) for item in filters), name

    def test_what_any_visitor_can_cause_is_one_line_and_no_mail(self) -> None:
        with self.assertLogs("django.security.DisallowedHost") as logs:
            assert self.client.get("/", HTTP_HOST="elsewhere.example").status_code == 400
        record = logs.records[0]
        record.exc_info = record.exc_info or (ValueError, ValueError(), None)  # Not in old Djangos.
        assert not NoMailForVisitors().filter(record)
        assert OneLineForVisitors().filter(record)
        assert not record.exc_info

    def test_errors_of_the_project_keep_their_mail_and_their_traceback(self) -> None:
        record = make_record("oh", exc_info=(ValueError, ValueError("no good"), None))
        assert NoMailForVisitors().filter(record)
        assert OneLineForVisitors().filter(record)
        assert record.exc_info

    def test_the_handlers_have_those_filters(self) -> None:
        handlers: Any = settings.LOGGING["handlers"]
        assert handlers["console"]["filters"] == ["one_line_for_visitors"]
        assert handlers["mail"]["filters"] == ["no_mail_for_visitors"]
