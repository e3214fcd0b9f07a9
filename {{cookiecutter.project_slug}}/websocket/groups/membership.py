"""The groups that one member is in."""

from __future__ import annotations

from websocket.counters import counters
from websocket.groups.memory import Hub
from websocket.groups.message import Member


class Memberships:
    """The groups that one member has joined, or may have: a join that failed changes nothing."""

    def __init__(self, hub: Hub, member: Member) -> None:
        self.hub = hub
        self.member = member
        self.groups: set[str] = set()

    async def join(self, group: str) -> None:
        """Join a group, unless it is left before Redis confirms it."""
        self.groups.add(group)
        await self.hub.join(group, self.member)
        counters["joins"] += 1

    def leave(self, group: str) -> None:
        """Leave a group, also for joins that still wait."""
        self.groups.discard(group)
        self.hub.leave(group, self.member)

    def leave_all(self) -> None:
        """Leave every group."""
        while self.groups:
            self.leave(self.groups.pop())
