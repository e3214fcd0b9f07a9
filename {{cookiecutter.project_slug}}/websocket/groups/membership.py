"""The groups that one member is in."""

from __future__ import annotations

from websocket.counters import counters
from websocket.groups.memory import Hub
from websocket.groups.message import Member
from websocket.groups.presence import Identity
from websocket.groups.tasks import GroupFunction


class Memberships:
    """The groups that one member has joined, or tried to join: a failed join changes nothing."""

    def __init__(self, hub: Hub, member: Member) -> None:
        self.hub = hub
        self.member = member
        self.groups: set[str] = set()
        # None until they are needed: the identity and the info in each group with presence, and the
        # groups whose task this member wants.
        self.present: dict[str, tuple[Identity, str]] | None = None
        self.tasks: set[str] | None = None

    async def join(
        self,
        group: str,
        identity: Identity | None = None,
        info: str = "",
        task: GroupFunction | None = None,
    ) -> None:
        """Join a group, unless the member leaves it before Redis confirms the join.

        With an identity, be present there with this info; with a task, want the group's task.
        """
        is_new = self.member not in self.hub.members.get(group, ())
        self.groups.add(group)
        await self.hub.join(group, self.member)
        counters["joins"] += 1
        if identity is not None:
            try:
                await self.enter(group, identity, info)
            except BaseException:
                if is_new:
                    self.leave(group)
                raise
        if task is not None and group in self.groups:
            self.tasks = self.tasks or set()
            if group not in self.tasks:
                self.tasks.add(group)
                self.hub.join_task(group, task)

    async def enter(self, group: str, identity: Identity, info: str) -> None:
        """Be present in a group, in place of an earlier identity there."""
        await self.hub.presence.join(group, identity, info)
        if group not in self.groups:
            self.hub.presence.leave(group, identity)
            return
        self.present = self.present or {}
        old, _ = self.present.get(group, (None, ""))
        self.present[group] = identity, info
        if old is not None:
            self.hub.presence.leave(group, old)

    async def become(self, identity: Identity) -> None:
        """Be present under another identity wherever the member is present."""
        for group, (_, info) in list((self.present or {}).items()):
            await self.enter(group, identity, info)

    def leave(self, group: str) -> None:
        """Leave a group, and end the joins that still wait."""
        self.groups.discard(group)
        self.hub.leave(group, self.member)
        if self.present and group in self.present:
            self.hub.presence.leave(group, self.present.pop(group)[0])
        if self.tasks and group in self.tasks:
            self.tasks.remove(group)
            self.hub.leave_task(group)

    def leave_all(self) -> None:
        """Leave every group."""
        while self.groups:
            self.leave(self.groups.pop())
