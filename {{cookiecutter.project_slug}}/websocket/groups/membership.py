"""The groups that one member is in: joining, leaving, and leaving them all."""

from __future__ import annotations

from collections import Counter

from websocket.counters import counters
from websocket.groups.memory import Hub
from websocket.groups.message import Member


class Memberships:
    """The groups that one member is in."""

    def __init__(self, hub: Hub, member: Member) -> None:
        self.hub = hub
        self.member = member
        #: The groups that a join was confirmed for.
        self.joined: set[str] = set()
        #: How many joins wait for their confirmation.
        self.joining: Counter[str] = Counter()

    async def join(self, group: str) -> None:
        """Join a group. A join that fails or is cancelled changes nothing."""
        self.joining[group] += 1
        try:
            await self.hub.join(group, self.member)
            if self.joining[group]:  # Else it was left meanwhile.
                self.joined.add(group)
                counters["joins"] += 1
        finally:
            self.joining -= Counter([group])
            if group not in self.joined and not self.joining[group]:
                self.hub.leave(group, self.member)

    def leave(self, group: str) -> None:
        """Leave a group, also for a join that still waits."""
        self.joined.discard(group)
        del self.joining[group]
        self.hub.leave(group, self.member)

    def leave_all(self) -> None:
        """Leave every group."""
        for group in [*self.joined, *self.joining]:
            self.leave(group)
