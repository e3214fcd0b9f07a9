"""The project's application inside an ASGI middleware that hides the server's `send`."""

from project.asgi import application as wrapped


class Timing:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def timed_send(event):
            await send(event)

        await self.app(scope, receive, timed_send)


application = Timing(wrapped)
