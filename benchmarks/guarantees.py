"""The load for what this project promises of groups: to miss nothing, and to be there."""

from __future__ import annotations

import asyncio

from picows import WSFrame, WSMsgType, WSTransport

from benchmarks.load import PATIENCE, Client, Handshakes, Member, connect, join_all, text_of
from benchmarks.servers import Server


class Reader(Client):
    """A client whose messages are read one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: asyncio.Queue[str] = asyncio.Queue()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            self.messages.put_nowait(frame.get_payload_as_utf8_text())


class Resumes(Handshakes):
    """Visitors who come back to a group with their position, and get so many messages.

    A group without a history tells each of them to load the state.
    """

    def __init__(self, server: Server, cookie: str, missed: int) -> None:
        super().__init__(server, cookie)
        self.missed = missed
        self.clients = [Member(), Reader(), Client()]

    async def open(self) -> None:
        """Join as somebody who stays, and as the visitor, and publish what the visitor misses."""
        server = self.servers[0]
        stays, visitor, publisher = self.clients
        await join_all([stays], server)
        await connect(visitor, server, "/join/?resume=", self.headers)
        await connect(publisher, server, "/publish/")
        try:
            async with asyncio.timeout(PATIENCE):
                id, position = await self.see(visitor, publisher)
        except TimeoutError:
            raise server.failed("The visitor did not get what was published.") from None
        visitor.close()
        self.path = f"/join/?resume={id},{position}"
        # After what was missed, the position that was reached and the id of the new socket.
        self.messages = self.missed + 2 if position else 1

    async def see(self, visitor: Reader, publisher: Client) -> tuple[str, str]:
        """Return the visitor's id, and its position after one message, before others."""
        marked: list[str] = []
        alone = [""]
        text = text_of(200)
        sent = False
        while len(marked) < self.missed + 1:
            line, separator, data = (await visitor.messages.get()).partition("\n")
            if not separator:
                alone.append(line)
            elif data != "joined":
                marked.append(line)
            if not sent:
                sent = True
                for _ in range(self.missed + 1):
                    publisher.transport.send(WSMsgType.TEXT, text)
        return alone[-1], marked[0]
