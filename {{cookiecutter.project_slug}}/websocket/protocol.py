"""The words of the protocol: states, events and errors, and what a handshake carries."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final

from django.core.serializers.json import DjangoJSONEncoder
from django.http import QueryDict

from websocket import conf

# ASGI leaves the values of its scopes and events untyped.
Scope = dict[str, Any]
Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

encode_json = DjangoJSONEncoder(separators=(",", ":")).encode


class State(enum.Enum):
    """How far one side of a connection has come."""

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
    """The connection is over, whichever side ended it.

    A view need not catch it: uncaught, it ends the view quietly, for a client that leaves is not
    an error. `code` and `reason` are those of the close frame (RFC 6455, section 7.4); a
    connection that was lost without one has 1005 or 1006.
    """

    def __init__(self, code: int = 1000, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class InvalidMessage(ValueError):
    """The client sent something that the view cannot read.

    A view may catch it and go on. Uncaught, it closes the connection with `code`: 1003 for a
    frame of the wrong kind, 1007 for data that does not parse (RFC 6455, section 7.4.1).
    """

    def __init__(self, message: str, code: int = 1003) -> None:
        super().__init__(message)
        self.code = code


class Headers(Mapping[str, str]):
    """The handshake's headers, by name in any case; repeated ones are joined (RFC 9110, 5.3)."""

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
    """The parameters of a query string: the last value by name, all of them by `getlist`."""


def size_of(event: Event) -> int:
    """Return the size of an event's data in bytes: 0 where it has none."""
    text = event.get("text")
    if text is None:
        return len(event.get("bytes") or b"")
    # Where even four bytes a character fit, the number of characters is near enough.
    if len(text) * 4 <= conf.MAX_MESSAGE_SIZE or text.isascii():
        return len(text)
    return len(text.encode(errors="surrogatepass"))
