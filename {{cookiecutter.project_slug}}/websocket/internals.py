"""All code that relies on private details of uvicorn, asyncio, asgiref and Django.

Each docstring names the detail, the versions in which it was read and tried, and the effect of its
absence. Each function has a test of the same name in websocket/tests/test_internals.py, which fails
when a release changes the detail.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Collection, Container
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from socket import SO_LINGER, SOL_SOCKET
from types import CodeType, MethodType
from typing import Any

from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from django.conf import settings
from django.core.handlers.base import BaseHandler
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http.response import HttpResponseBase
from django.utils.functional import LazyObject, empty
from django.utils.module_loading import import_string

# uvicorn, and asyncio below it


def transport_of(send: Any) -> asyncio.Transport | None:
    """Return the transport below an ASGI connection, or None if the server does not expose it.

    In uvicorn (0.52.4 to 0.54.0), `send` is a bound method of the connection's protocol, whose
    attribute `transport` is asyncio's. Without it, websocket.link does nothing: clients that flood
    their connection or do not read cannot be dropped, data is read before the handshake is
    answered, and a client that left or that the server gave up is noticed late. See
    https://github.com/Kludex/uvicorn/blob/main/uvicorn/protocols/websockets/
    """
    return getattr(getattr(send, "__self__", None), "transport", None)


def ping_timeout_of(send: Any) -> float | None:
    """Return the seconds that the server waits for a pong, or None if it does not expose them.

    In uvicorn (0.52.4 to 0.54.0), this is an attribute of the protocol that `send` is a method of,
    set by `--ws-ping-timeout`. Without it, uvicorn's default is assumed.
    """
    timeout = getattr(getattr(send, "__self__", None), "ping_timeout", None)
    return timeout if isinstance(timeout, (int, float)) else None


def unsent(transport: asyncio.Transport) -> int:
    """Return the number of bytes that the transport has not yet handed to the operating system.

    Public in asyncio. uvicorn (0.54.0) writes to nothing else, and uvloop (0.23.0) counts the same.
    Without it, there is no limit on the data kept for a client that does not read.
    """
    return transport.get_write_buffer_size()


def fragments(send: Any) -> int:
    """Return the number of fragments that the server keeps of an incomplete message.

    uvicorn (0.54.0, websockets_sansio_impl.py) keeps them in a list, `frames`, and limits their
    bytes only. Without this, a client with empty fragments makes it grow by 1 MiB per second.
    """
    return len(getattr(getattr(send, "__self__", None), "frames", ()))


def peer_has_left(transport: asyncio.Transport) -> bool:
    """Return whether the other end has closed the connection, without reading from it.

    asyncio and uvloop expose the socket as "socket"; POLLRDHUP is specific to Linux (man 2 poll).
    Without it, a client that leaves before its handshake is answered is noticed only by the answer.
    """
    server_socket = transport.get_extra_info("socket")
    if server_socket is None or server_socket.fileno() < 0 or not hasattr(select, "POLLRDHUP"):
        return False
    poll = select.poll()
    poll.register(server_socket.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


def abort(transport: asyncio.Transport) -> None:
    """Drop a connection at once with its unsent data, including that in the operating system.

    After `abort()` alone, the operating system retries for minutes to send its own buffer:
    SO_LINGER with zero seconds makes it reset the connection (man 7 socket). asyncio and uvloop
    expose it as "socket" (tried: Python 3.11 to 3.13, uvloop 0.23.0).
    """
    if server_socket := transport.get_extra_info("socket"):
        with suppress(OSError, ValueError):  # It may be closed already.
            server_socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def excuse_bad_text(record: logging.LogRecord) -> bool:
    """Downgrade uvicorn's error about a client's invalid UTF-8 to INFO.

    A filter for the logger "uvicorn.error", which recognises the message by its text (uvicorn
    0.54.0, websockets_sansio_impl.py). Without it, any client can fill the log with tracebacks.
    """
    if record.msg == "Invalid UTF-8 sequence received from client.":
        record.exc_info = None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


def excuse_bad_frames(record: logging.LogRecord) -> bool:
    """Downgrade uvicorn's errors about a client's invalid frames to INFO, without a traceback.

    A filter for the logger "asyncio", to which asyncio and uvloop report an exception in a
    protocol's `data_received` as fatal. In uvicorn (0.54.0, websockets_sansio_impl.py) these two
    mean that the client sent something invalid before the handshake was answered, or after its own
    close. Without it, any client can fill the log with tracebacks.
    """
    error = record.exc_info[1] if record.exc_info else None
    if error is not None and type(error).__name__ in ("AssertionError", "InvalidState"):
        codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
        if any(c.co_name == "data_received" and "uvicorn" in c.co_filename for c in codes):
            record.msg, record.args = "Invalid frames received from client.", ()
            record.exc_info = None
            record.levelno, record.levelname = logging.INFO, "INFO"
    return True


def lift_header_limits() -> None:
    """Allow handshakes headers as long and as many as page requests may have.

    uvicorn (0.54.0) reads a handshake whole and hands it to the library websockets (17.4), whose
    http11.py refuses a line over 8 KiB and more than 128 headers; uvicorn then never answers. At
    that point the limits protect nothing, and pages have none. The library reads them from the
    environment when it is imported, which uvicorn does before it imports the application. Without
    this, a browser with many cookies can load pages, but not open sockets.
    """
    for name, limit in (("MAX_LINE_LENGTH", 2**20), ("MAX_NUM_HEADERS", 10_000)):
        value = os.environ.setdefault(f"WEBSOCKETS_{name}", str(limit))
        if "websockets.http11" in sys.modules:
            setattr(sys.modules["websockets.http11"], name, int(value))


def open_connections() -> Collection[Any] | None:
    """Return the connections of the uvicorn server in this process's main thread, or None.

    uvicorn (0.54.0, server.py) sets one of its methods as the handler of SIGTERM before it starts
    the lifespan. Without this, requests that are never completed are kept forever, and ASGI
    middleware that hides the transport causes no warning.
    """
    server: Any = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return server.server_state.connections if hasattr(server, "server_state") else None


def is_stopping() -> bool:
    """Return whether the uvicorn server in this process's main thread is to stop.

    uvicorn (0.52.4 to 0.54.0, server.py) has an attribute `should_exit`. Without this, one open
    event stream keeps uvicorn from stopping and from reloading.
    """
    server: Any = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return getattr(server, "should_exit", False) is True


def delay_stop(begin: Callable[[], object]) -> None:
    """Call `begin` at the first SIGTERM, and leave the next ones to uvicorn.

    uvicorn (0.52.4 to 0.54.0, server.py) sets its handler before it starts the lifespan, and closes
    all sockets at once. Without this, WEBSOCKET_DRAIN_SECONDS has no effect.
    """
    theirs: Any = signal.getsignal(signal.SIGTERM)

    def delay(server: Any, *args: Any) -> None:
        signal.signal(signal.SIGTERM, theirs)
        begin()

    # A method of the server, as theirs is: the functions above find the server by it.
    signal.signal(signal.SIGTERM, MethodType(delay, theirs.__self__))


def is_unreadable(connection: Any) -> bool:
    """Return whether uvicorn's WebSocket library could not parse the handshake of a connection.

    It may have a body, for example. uvicorn (0.54.0) hands it over whole and at once, and sets
    `handshake_initiated` only if it could be parsed; otherwise it neither answers nor closes.
    Without this, such a client waits for an answer, and the connection stays open.
    """
    return not getattr(connection, "handshake_initiated", True)


def refuse_unreadable(connection: Any) -> tuple[int, str]:
    """Answer an unreadable handshake and close its connection; return the status and the address.

    For some errors, the library websockets (17.4, server.py) has prepared an answer. uvicorn
    (0.54.0) has the client's address and port in `client`.
    """
    answer = b"".join(connection.conn.data_to_send())
    if not answer:
        answer = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    connection.transport.write(answer)
    connection.transport.close()
    return int(answer[9:12]), (connection.client or "-")[0]


def is_unfinished(connection: Any) -> bool:
    """Return whether a connection in uvicorn waits for a request, or for the rest of its headers.

    uvicorn (0.54.0, httptools_impl.py and h11_impl.py) makes a `cycle` once they are complete. Its
    timer closes connections that wait for another request, but not those that have received a part
    of one. Without this, a client can hold such connections forever.
    """
    if not hasattr(connection, "timeout_keep_alive_task") or connection.transport.is_closing():
        return False
    cycle = connection.cycle
    return connection.timeout_keep_alive_task is None and (cycle is None or cycle.response_complete)


def drop_unfinished(connection: Any) -> None:
    """Drop such a connection, with its unsent data."""
    abort(connection.transport)


# asgiref


def set_executor(context: ThreadSensitiveContext, executor: ThreadPoolExecutor) -> None:
    """Make asgiref run a context's thread-sensitive code in an executor.

    asgiref (3.3 to 3.13) looks it up in a table of its class. From 3.13 on, a context also takes an
    executor as an argument, but can then be entered only once. Without this, each socket has its
    own thread and database connection.
    """
    SyncToAsync.context_to_thread_executor[context] = executor


def enter_context(
    find: Callable[[], ThreadSensitiveContext],
    instead_of: Container[ThreadSensitiveContext] = (),
) -> None:
    """Set a context for this task and its subtasks, if it has none or one of `instead_of`.

    `async with ThreadSensitiveContext()` sets the same context variable, but has to be exited: a
    socket would keep a Python frame for it. Without this, the table above has no effect.
    """
    context = SyncToAsync.thread_sensitive_context.get(None)
    if context is None or context in instead_of:
        SyncToAsync.thread_sensitive_context.set(find())


def waits_for_thread(code: CodeType) -> bool:
    """Return whether a coroutine with this code waits for sync code in a thread.

    asgiref (3.3 to 3.13) waits in `SyncToAsync.__call__`. Without this, a view whose
    time is up is cut off while the sync code that cleans up after it is still queued.
    """
    return code is SyncToAsync.__call__.__code__


def unmark_coroutine(function: Callable[..., Any]) -> None:
    """Remove the marks that make asgiref and inspect treat a function as a coroutine function.

    `markcoroutinefunction` sets one of them: inspect's since Python 3.12, asgiref's before.
    `functools.wraps` copies it to a sync function that wraps a marked one. Without this, Django
    awaits the response of a handshake whose view was marked by a decorator.
    """
    for mark in ("_is_coroutine", "_is_coroutine_marker"):
        function.__dict__.pop(mark, None)


# Django


def template_middleware(handler: BaseHandler) -> list[Callable[..., Any]]:
    """Return the middleware that handles template responses, outermost first.

    Django (3.1 to 6.1) runs it from a private list when a view returns. Without this, a response
    that a socket view returns after the middleware has finished is rendered without it.
    """
    return handler._template_response_middleware  # type: ignore[attr-defined, no-any-return]


def view_middleware(handler: BaseHandler) -> list[Callable[..., HttpResponseBase | None]]:
    """Return the middleware that is called before a view, outermost first.

    Django (3.1 to 6.1) runs it from a private list when it has resolved a path. Without this, a
    page at the path of a socket is run without its CSRF check and the like.
    """
    return handler._view_middleware  # type: ignore[attr-defined, no-any-return]


def set_handler(response: HttpResponseBase, handler: type[BaseHandler]) -> None:
    """Name the handler that sends `request_finished` when the response is closed.

    Django's own handlers (3.1 to 6.1) set this attribute too. Without it, receivers that are
    connected for one kind of handler are not called.
    """
    response._handler_class = handler  # type: ignore[attr-defined]


def loaded_user(request: Any) -> Any:
    """Return a request's user, or None if the database has not been asked for it yet.

    Django (3.1 to 6.1) sets a lazy object, in which `_wrapped` is `empty` until it is used. Without
    this, the line in the log of a handshake that is refused early would ask the database.
    """
    user = getattr(request, "user", None)
    return None if isinstance(user, LazyObject) and user._wrapped is empty else user


def remove_messages(request: Any) -> bool:
    """Remove a request's storage of messages if it is as new; return whether it was removed.

    Without this, django.contrib.messages (3.1 to 6.1) keeps 1.2 KiB in `_messages` for each socket.
    """
    storage: Any = vars(request).get("_messages")
    is_usual = type(storage) is import_string(settings.MESSAGE_STORAGE)
    if is_new := is_usual and not (storage.used or storage.added_new or "_level" in vars(storage)):
        del request._messages
    return is_new


def hide_age(connection: BaseDatabaseWrapper) -> float | None:
    """Return the time at which Django would close a database connection as too old, and hide it.

    Django (3.1 to 6.1) sets `close_at` when it connects, and checks it wherever a request ends.
    Without this, it closes connections from which a socket is still reading a queryset.
    """
    close_at: float | None = connection.close_at
    connection.close_at = None
    return close_at


def close_if_old(connection: BaseDatabaseWrapper, close_at: float | None) -> None:
    """Close a database connection that has failed, or that is past its hidden time (see above)."""
    connection.close_at = close_at
    connection.close_if_unusable_or_obsolete()
    connection.close_at = None


def wrap_queries(connection: BaseDatabaseWrapper, wrapper: Callable[..., Any]) -> None:
    """Run all further queries of a database connection through a wrapper.

    Django (3.1 to 6.1) keeps the wrappers in a list; the public `execute_wrapper()` removes them
    when its block ends. Without this, it is not known which connections are being read.
    """
    connection.execute_wrappers.insert(0, wrapper)
