"""The protocol's vocabulary: states, events, errors, headers, close codes and JSON."""

from __future__ import annotations

import enum
import json
import math
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from typing import Any, Final

from django.core.serializers.json import DjangoJSONEncoder
from django.http import QueryDict
from django.utils.functional import Promise

from websocket import conf

# ASGI leaves the values of its scopes and events untyped.
Scope = dict[str, Any]
Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


class State(enum.Enum):
    """The state of one side of a connection."""

    CONNECTING = 1
    CONNECTED = 2
    DISCONNECTED = 3


class SendEvent:
    """The events that an application sends (ASGI, "WebSocket connection scope")."""

    ACCEPT: Final = "websocket.accept"
    SEND: Final = "websocket.send"
    CLOSE: Final = "websocket.close"


class ReceiveEvent:
    """The events that an application receives (ASGI, "WebSocket connection scope")."""

    CONNECT: Final = "websocket.connect"
    RECEIVE: Final = "websocket.receive"
    DISCONNECT: Final = "websocket.disconnect"


class WebSocketDisconnect(Exception):
    """The connection is over: one of the two sides has closed it, or it was lost.

    A view need not catch it: uncaught, it ends the view quietly, because a client that leaves is
    not an error. The view has WEBSOCKET_DISCONNECT_GRACE seconds to end. `code` and `reason` are
    those of the close frame (RFC 6455, section 7.4). If there was none, the code is 1005 or 1006.
    """

    def __init__(self, code: int = 1000, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        why = f"{self.code} {self.reason}".strip()
        return f"The connection is over ({why}). A task of socket.start() ends quietly then."


class InvalidMessage(ValueError):
    """The client sent a message that the view cannot read.

    A view may catch it and go on. Uncaught, it closes the connection with `code`: 1003 for a
    frame of the wrong kind, 1007 for data that cannot be parsed (RFC 6455, section 7.4.1). Raises
    `ValueError` for a code that cannot be sent.
    """

    def __init__(self, message: str, code: int = 1003) -> None:
        check_close(code)
        super().__init__(message)
        self.code = code


class Headers(Mapping[str, str]):
    """A handshake's headers by case-insensitive name. Repeated ones are joined (RFC 9110, 5.3)."""

    def __init__(self, scope: Scope) -> None:
        self._headers: dict[str, str] = {}
        for raw_name, raw_value in scope.get("headers") or ():
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            if name in self._headers:
                separator = "; " if name == "cookie" else ", "
                value = f"{self._headers[name]}{separator}{value}"
            self._headers[name] = value

    def __getitem__(self, name: str) -> str:
        return self._headers[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._headers)

    def __len__(self) -> int:
        return len(self._headers)

    def __repr__(self) -> str:
        return f"Headers({self._headers!r})"

    def as_dict(self) -> dict[str, str]:
        """Return a new dictionary of the headers, with names in lower case."""
        return dict(self._headers)


class QueryParams(QueryDict):
    """A query string's parameters. Indexing returns a name's last value, `getlist` all of them."""


# RFC 6455, section 7.4, and the IANA registry of close codes, except those for local use.
_SENDABLE_CODES: Final = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})


def check_close(code: int, reason: str = "") -> None:
    """Raise `ValueError` for a code or a reason that a close frame must not have.

    (RFC 6455, sections 5.5 and 7.4.)
    """
    if not (isinstance(code, int) and (code in _SENDABLE_CODES or 3000 <= code <= 4999)):
        raise ValueError(
            f"{code!r} is not a close code that can be sent: use 1000 to 1003, 1007 to 1014, or "
            "one from 3000 to 4999."
        )
    if len(reason.encode()) > 123:
        raise ValueError(f"A close reason has 123 bytes at the most; this one: {reason!r}.")


#: The headers about content that Django's middleware sets. A 101 has no content (RFC 9110, section
#: 15.2), and uvicorn keeps a handshake's headers while the socket is open: these take 2 KiB.
HEADERS_OF_CONTENT: Final = frozenset(
    {
        b"content-language",
        b"content-security-policy",
        b"content-security-policy-report-only",
        b"cross-origin-opener-policy",
        b"referrer-policy",
        b"vary",
        b"x-content-type-options",
        b"x-frame-options",
    }
)


_CONTROL: Final = re.compile(rb"[\0-\x08\x0a-\x1f\x7f]")


def encode_header(header: tuple[bytes | str, bytes | str]) -> tuple[bytes, bytes]:
    """Return a header encoded for ASGI; raise `ValueError` if it contains control characters."""
    name, value = (part.encode("latin-1") if isinstance(part, str) else part for part in header)
    # RFC 9110, section 5.5. A line break, for example, would start another header.
    if _CONTROL.search(name + value):
        raise ValueError(f"A header must not contain control characters: {header!r}.")
    return name.lower(), value


def one_line(value: Any) -> str:
    """Return a value as text for the log, escaped against log injection."""
    return str(value).encode("unicode_escape").decode("ascii")


encode_json = DjangoJSONEncoder(separators=(",", ":")).encode


def dump_json(data: Any, dumps: dict[str, Any]) -> str:
    """Return a value as JSON; `dumps` are arguments for `json.dumps`."""
    return json.dumps(data, **{"cls": DjangoJSONEncoder, **dumps}) if dumps else encode_json(data)


def _read_finite(number: str) -> float:
    # Python reads NaN, Infinity and 1e999, and would write them in a form that no browser parses.
    if not math.isfinite(value := float(number)):
        raise ValueError("a number that is not finite")
    return value


_JSON: Final = json.JSONDecoder(parse_constant=_read_finite, parse_float=_read_finite)


def decode_json(data: str | bytes) -> Any:
    """Decode JSON; raise `InvalidMessage` for anything else."""
    try:
        return _JSON.decode(
            data if isinstance(data, str) else data.decode(json.detect_encoding(data))
        )
    except (ValueError, RecursionError) as error:
        raise InvalidMessage(f"Expected JSON, and got something else: {error}.", 1007) from error


def is_too_large(event: Event) -> bool:
    """Return whether an event's data is larger than WEBSOCKET_MAX_MESSAGE_SIZE."""
    text = event.get("text")
    if text is not None and len(text) * 4 <= conf.MAX_MESSAGE_SIZE:
        return False  # A character has four bytes at most: the usual case, without encoding.
    return size_of(event) > conf.MAX_MESSAGE_SIZE


def size_of(event: Event) -> int:
    """Return the size of an event's data in bytes: 0 if it has none."""
    text = event.get("text")
    if text is None:
        return len(event.get("bytes") or b"")
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def not_text(data: object) -> TypeError:
    """Return the exception for what is not a str, and was to be sent as text."""
    hint = "use send_json()"
    if isinstance(data, (bytes, bytearray, memoryview)):
        hint = "use send_bytes()"
    elif isinstance(data, Coroutine):
        hint = "write `await` before the call"
    elif isinstance(data, Promise):
        return TypeError("send_text() takes a str, not a lazy one: use str().")
    return TypeError(f"send_text() takes a str, not a {type(data).__name__}: {hint}.")
