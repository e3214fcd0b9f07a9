"""Give each connection scopes of its own in Sentry; loaded only in projects that use it."""

from __future__ import annotations

from typing import Any

from django.core.signals import request_started
from django.dispatch import receiver

from websocket.handshake import HandshakeHandler


@receiver(request_started, sender=HandshakeHandler)
def isolate(scope: Any, **kwargs: Any) -> None:
    """Keep what Sentry notes of this connection apart from others, and add the URL to its reports.

    Sentry itself does this for pages only. Its scopes are context variables: asgiref passes them
    on from the handshake's thread to the connection's task, and asyncio to the tasks of the view.
    Without this, all connections share the same scopes, and reports name the wrong user.
    """
    import sentry_sdk

    def add_url(event: Any, hint: Any) -> Any:
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        url = f"{scope.get('scheme', 'ws')}://{host}{scope['path']}"
        event.setdefault("request", {}).update(method="GET", url=url)
        return event

    isolation_scope = sentry_sdk.get_isolation_scope().fork()
    isolation_scope.clear_breadcrumbs()
    isolation_scope.add_event_processor(add_url)
    sentry_sdk.Scope.set_isolation_scope(isolation_scope)
    sentry_sdk.Scope.set_current_scope(sentry_sdk.get_current_scope().fork())
