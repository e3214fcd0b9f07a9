"""Exceptions and responses that views, decorators, middleware and servers come up with."""

import asyncio
import io

from django.core.exceptions import BadRequest, PermissionDenied
from django.http import (
    FileResponse,
    Http404,
    HttpResponse,
    HttpResponseRedirect,
    StreamingHttpResponse,
)
from django.template.response import SimpleTemplateResponse
from websocket.connection import InvalidMessage, WebSocketDisconnect
from websocket.groups import SubscriberTooSlow

#: What was raised in the current case, as planned or by the methods of a socket.
raised = []


class Planned(Exception):
    """An exception that nothing but a plan raises."""


# What the methods of a socket may raise, and what plans raise besides.
DOCUMENTED = (InvalidMessage, RuntimeError, TimeoutError, TypeError, ValueError)
DOCUMENTED += (WebSocketDisconnect, asyncio.CancelledError, SubscriberTooSlow)
PLANNED = (BadRequest, ExceptionGroup, Http404, PermissionDenied, Planned)

ERRORS = {
    "404": lambda: Http404("planned"),
    "403": lambda: PermissionDenied("planned"),
    "400": lambda: BadRequest("planned"),
    "500": lambda: Planned("planned"),
    "timeout": lambda: TimeoutError("planned"),
    "invalid": lambda: InvalidMessage("planned"),
    "disconnect": lambda: WebSocketDisconnect(1000),
}


def make_error(name):
    """Note an exception that is to be raised, and return it."""
    raised.append(ERRORS[name]())
    return raised[-1]


class Template:
    """What `SimpleTemplateResponse` renders."""

    def __init__(self, error=None):
        self.error = error

    def render(self, context=None, request=None):
        if self.error is not None:
            raise make_error(self.error)
        return "No."


def chunks(error=None):
    yield b"N"
    if error is not None:
        raise make_error(error)
    yield b"o."


async def slow_chunks(error=None):
    for chunk in chunks(error):
        await asyncio.sleep(0.5)
        yield chunk


def with_cookie():
    response = HttpResponse("No.", status=403)
    response.set_cookie("a", "b")
    return response


RESPONSES = {
    "plain": lambda: HttpResponse("No.", status=503),
    "redirect": lambda: HttpResponseRedirect("/log-in/"),
    "cookie": with_cookie,
    "file": lambda: FileResponse(io.BytesIO(b"No."), status=410),
    "template": lambda: SimpleTemplateResponse(Template(), status=403),
    "template that fails": lambda: SimpleTemplateResponse(Template("500")),
    "template that is not found": lambda: SimpleTemplateResponse(Template("404")),
    "stream": lambda: StreamingHttpResponse(chunks()),
    "stream that fails": lambda: StreamingHttpResponse(chunks("500")),
    "async stream": lambda: StreamingHttpResponse(slow_chunks()),
    "async stream that fails": lambda: StreamingHttpResponse(slow_chunks("500")),
}
