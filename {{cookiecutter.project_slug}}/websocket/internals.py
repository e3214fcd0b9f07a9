"""Everything that relies on private details of asyncio's and ASGI's implementations, in one place.

Each function says what it relies on, where that was read and tried, and what is lost without it.
For each there is a test of the same name in websocket/tests/test_internals.py, which fails when a
release changes the detail.
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
from collections.abc import Callable, Container
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

from asgiref.sync import SyncToAsync, ThreadSensitiveContext

# uvicorn, and asyncio below it


def transport_of(send: Any) -> asyncio.Transport | None:
    """Return the transport below an ASGI connection, or None where the server does not show it.

    In uvicorn (0.52.4 to 0.54.0), `send` is a bound method of the connection's protocol, whose
    attribute `transport` is asyncio's. Without it a client that does not read cannot be dropped,
    and one that the server has given up is noticed only at the next send. See
    https://github.com/Kludex/uvicorn/blob/main/uvicorn/protocols/websockets/
    """
    return getattr(getattr(send, "__self__", None), "transport", None)


def ping_timeout_of(send: Any) -> float | None:
    """Return how many seconds the server waits for a pong, or None where it does not show that.

    In uvicorn (0.52.4 to 0.54.0), an attribute of the protocol that `send` is a method of, set by
    `--ws-ping-timeout`. Without it, WebSocket.look() supposes uvicorn's default.
    """
    timeout = getattr(getattr(send, "__self__", None), "ping_timeout", None)
    return timeout if isinstance(timeout, (int, float)) else None


def unsent(transport: asyncio.Transport) -> int:
    """Return how many bytes the transport still has to hand to the operating system.

    Public in asyncio; that uvicorn writes to nothing else, and that uvloop counts the same, was
    read and tried (uvicorn 0.54.0, uvloop 0.23.0). Without it, nothing bounds what is kept for a
    client that does not read.
    """
    return transport.get_write_buffer_size()


def fragments(send: Any) -> int:
    """Return how many fragments the server keeps of a message whose end has not arrived yet.

    uvicorn (0.54.0, websockets_sansio_impl.py) keeps them in a list, `frames`. The limit for a
    message's size counts their bytes only. Without this, a client that sends empty fragments
    without end makes that list grow by a MiB a second.
    """
    return len(getattr(getattr(send, "__self__", None), "frames", ()))


def peer_has_left(transport: asyncio.Transport) -> bool:
    """Return whether the other end has closed the connection, without reading from it.

    asyncio and uvloop give the socket away as "socket"; POLLRDHUP is Linux's (man 2 poll). Without
    it, a client that leaves before its handshake is answered is noticed only by the answer.
    """
    server_socket = transport.get_extra_info("socket")
    if server_socket is None or server_socket.fileno() < 0 or not hasattr(select, "POLLRDHUP"):
        return False
    poll = select.poll()
    poll.register(server_socket.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


def abort(transport: asyncio.Transport) -> None:
    """Drop a connection at once, and with it what is unsent, in the operating system too.

    `abort()` alone leaves the operating system to retry for minutes what is in its own buffer:
    SO_LINGER with zero seconds makes it reset the connection (man 7 socket). asyncio and uvloop
    give the socket away as "socket" (tried: Python 3.11 to 3.13, uvloop 0.23.0).
    """
    if server_socket := transport.get_extra_info("socket"):
        with suppress(OSError, ValueError):  # It may be closed already.
            server_socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def excuse_bad_text(record: logging.LogRecord) -> bool:
    """Log a client's invalid UTF-8, which uvicorn reports as an error of its own, at INFO.

    A filter for the logger "uvicorn.error", which recognises the message by its text (uvicorn
    0.54.0, websockets_sansio_impl.py). Without it, any client can fill the log with tracebacks.
    The client itself is told by a close with 1007.
    """
    if record.msg == "Invalid UTF-8 sequence received from client.":
        record.exc_info = None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


def excuse_bad_frames(record: logging.LogRecord) -> bool:
    """Log at INFO, without a traceback, that uvicorn failed over what a client sent.

    A filter for the logger "asyncio", to which asyncio and uvloop report an exception in a
    protocol's `data_received` as fatal. In uvicorn (0.54.0, websockets_sansio_impl.py) these two
    mean that the client was wrong when the handshake was not answered yet, or after it had sent a
    close. Without it, any client can fill the log with tracebacks.
    """
    error = record.exc_info[1] if record.exc_info else None
    names = ("AssertionError", "InvalidState")
    if (
        error is not None
        and type(error).__name__ in names
        and any(
            frame.f_code.co_name == "data_received" and "uvicorn" in frame.f_code.co_filename
            for frame, _ in traceback.walk_tb(error.__traceback__)
        )
    ):
        record.msg, record.args = "Invalid frames received from client.", ()
        record.exc_info = None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


def lift_header_limits() -> None:
    """Let handshakes have headers as long and as many as page requests may have.

    uvicorn (0.54.0) reads a handshake whole and hands it to the library websockets (17.4), whose
    http11.py refuses a line over 8 KiB and more than 128 headers; uvicorn then never answers. By
    that time the limits protect nothing, and pages have none. The library reads them from the
    environment when it is imported, which uvicorn does before it imports the application. Without
    this, a browser with many cookies has pages, and no sockets. See
    https://websockets.readthedocs.io/en/stable/reference/variables.html
    """
    for name, limit in (("MAX_LINE_LENGTH", 2**20), ("MAX_NUM_HEADERS", 10_000)):
        value = os.environ.setdefault(f"WEBSOCKETS_{name}", str(limit))
        if "websockets.http11" in sys.modules:
            setattr(sys.modules["websockets.http11"], name, int(value))


def uvicorn_server() -> Any:
    """Return the uvicorn server that runs in this process's main thread, or None.

    uvicorn (0.54.0, server.py) sets a method of it as the handler of SIGTERM before it starts the
    lifespan. Without this, requests that are never completed are kept for good, and nobody is
    warned of an ASGI middleware that hides the transport.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return server if hasattr(server, "server_state") else None


def is_unreadable(connection: Any) -> bool:
    """Return whether a connection of uvicorn's has a handshake that its library could not parse.

    Such as one with a body. uvicorn (0.54.0) hands it over whole and at once, and sets
    `handshake_initiated` only if it could be parsed; else it does not answer, nor close.
    """
    return not getattr(connection, "handshake_initiated", True)


def refuse_unreadable(connection: Any) -> int:
    """Answer such a handshake and close its connection; return the status.

    For some of its reasons, the library websockets (17.4, server.py) has prepared an answer.
    """
    answer = b"".join(connection.conn.data_to_send())
    if not answer:
        answer = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    connection.transport.write(answer)
    connection.transport.close()
    return int(answer[9:12])


def is_unfinished(connection: Any) -> bool:
    """Return whether a connection of uvicorn's waits for a request, or for the rest of its headers.

    uvicorn (0.54.0, httptools_impl.py and h11_impl.py) makes a `cycle` once they are complete. It
    closes connections that wait for another request, with a timer, but not those that have
    received a part of one.
    """
    if not hasattr(connection, "timeout_keep_alive_task") or connection.transport.is_closing():
        return False
    cycle = connection.cycle
    return connection.timeout_keep_alive_task is None and (cycle is None or cycle.response_complete)


# asgiref


def set_executor(context: ThreadSensitiveContext, executor: ThreadPoolExecutor) -> None:
    """Have asgiref run the thread-sensitive code of a context in an executor.

    asgiref (3.3 to 3.13) looks it up in a table of its class. From 3.13 on, a context takes an
    executor as an argument as well, but can then be entered only once. Without this, each socket
    has a thread and a database connection of its own. See sync.py in
    https://github.com/django/asgiref
    """
    SyncToAsync.context_to_thread_executor[context] = executor


def enter_context(
    find: Callable[[], ThreadSensitiveContext],
    instead_of: Container[ThreadSensitiveContext] = (),
) -> None:
    """Give the current task and its subtasks a context, unless they have another than these.

    `async with ThreadSensitiveContext()` sets the same context variable, but has to be left again:
    a socket would keep a frame for it. Without this, the table above has no effect.
    """
    context = SyncToAsync.thread_sensitive_context.get(None)
    if context is None or context in instead_of:
        SyncToAsync.thread_sensitive_context.set(find())


def unmark_coroutine(function: Callable[..., Any]) -> None:
    """Remove the marks by which asgiref and inspect take a function for a coroutine function.

    `markcoroutinefunction` sets one of them: inspect's since Python 3.12, asgiref's before. A sync
    function that `functools.wraps` a marked one copies it. Without this, Django awaits the
    response of a handshake whose view was marked by a decorator.
    """
    for mark in ("_is_coroutine", "_is_coroutine_marker"):
        function.__dict__.pop(mark, None)
