"""The groups that one member is in."""

from __future__ import annotations

from websocket.counters import counters
from websocket.groups.memory import Hub
from websocket.groups.message import Member


class Memberships:
    """The groups that one member has joined, or tried to join: a failed join changes nothing."""

    def __init__(self, hub: Hub, member: Member) -> None:
        self.hub = hub
        self.member = member
        self.groups: set[str] = set()

    async def join(self, group: str) -> None:
        """Join a group, unless the member leaves it before Redis confirms the join."""
        self.groups.add(group)
        await self.hub.join(group, self.member)
        counters["joins"] += 1

    def leave(self, group: str) -> None:
        """Leave a group, and end the joins that still wait."""
        self.groups.discard(group)
        self.hub.leave(group, self.member)

    def leave_all(self) -> None:
        """Leave every group."""
        while self.groups:
            self.leave(self.groups.pop())
