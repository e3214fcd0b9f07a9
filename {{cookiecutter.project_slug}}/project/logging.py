"""Log lines for machines, and without what does not belong in a log."""

import json
import logging
from datetime import UTC, datetime


class JSONFormatter(logging.Formatter):
    """An event as one line of JSON, its traceback included."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event)


class WithoutQueryStrings(logging.Filter):
    """Leaves out of uvicorn's lines what follows a URL's question mark: it may be a token."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                arg.partition("?")[0] if isinstance(arg, str) and arg.startswith("/") else arg
                for arg in record.args
            )
        return True


class OneLineForVisitors(logging.Filter):
    """Leaves out the traceback of what any visitor can cause, such as an invalid Host header."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith("django.security."):
            record.exc_info = None
        return True


class NoMailForVisitors(logging.Filter):
    """Keeps what any visitor can cause out of the mail to ADMINS."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.name.startswith("django.security.")
