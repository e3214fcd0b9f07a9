"""The groups that one member is in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from websocket import conf
from websocket.counters import counters
from websocket.groups.memory import Hub, has_history
from websocket.groups.message import Member
from websocket.groups.presence import Identity
from websocket.groups.tasks import GroupFunction
from websocket.resume import Position, Resume, key_of


class Resuming(Member, Protocol):
    """A member that may take up where it was."""

    resume: Resume | None

    def reach(self, position: Position, is_complete: bool) -> None:
        """Accept the position that a join has reached, and whether nothing is missing."""


class Memberships:
    """The groups that one member has joined, or tried to join: a failed join changes nothing."""

    def __init__(self, hub: Hub, member: Resuming) -> None:
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
        identity: Callable[[], Identity] | None = None,
        info: str = "",
        task: GroupFunction | None = None,
    ) -> bool:
        """Join a group, unless the member leaves it before Redis confirms the join.

        `identity` makes the member present in the group, with this info as JSON. `task` is the
        group's task, which then runs. Returns whether the member has all messages since its
        position.
        """
        is_new = self.member not in self.hub.members.get(group, ())
        self.groups.add(group)
        resume = self.member.resume
        if resume is None or not has_history(group):
            is_complete = False
            await self.hub.join(group, self.member)
        else:
            is_complete = await self.catch_up(group, resume)
        counters["joins"] += 1
        if identity is not None and group in self.groups:
            try:
                await self.enter(group, identity(), info)
            except BaseException:
                if is_new:
                    self.leave(group)
                raise
        if task is not None and group in self.groups:
            self.tasks = self.tasks or set()
            if group not in self.tasks:
                self.tasks.add(group)
                self.hub.join_task(group, task)
        return is_complete

    async def catch_up(self, group: str, resume: Resume) -> bool:
        """Join a group with a history: hold its messages back until those before are sent."""
        key = key_of(group)
        while key in resume.held:  # Another task of the view joins it.
            await asyncio.sleep(0.01)
        if group not in self.groups:
            return False  # It was left meanwhile.
        if self.member in self.hub.members.get(group, ()):
            return True
        resume.held[key] = []
        try:
            await self.hub.join(group, self.member)
            if group not in self.groups:
                return False
            position, missed = await self.hub.catch_up(group, resume.positions.get(key))
        except BaseException:
            self.leave(group)
            raise
        finally:
            held = resume.release(key)
        if group not in self.groups:
            return False
        size = sum(message.size for message in missed or ())
        is_complete = missed is not None and size <= conf.OUTBOX_SIZE
        for message in missed if missed is not None and is_complete else ():
            self.member.push(message)
        if position is not None:
            resume.positions[key] = position
            self.member.reach(position, is_complete)
        for message in held:
            self.member.push(message)
        return is_complete

    async def enter(self, group: str, identity: Identity, info: str) -> None:
        """Enter a group's members, and remove the member's earlier identity there."""
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
        """Change the identity in all groups with presence."""
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
