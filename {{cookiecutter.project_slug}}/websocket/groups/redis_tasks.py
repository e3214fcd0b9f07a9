"""Leases in Redis for the tasks that groups own: at most one process has a group's task.

A group has two keys. `<prefix>{<group>}:t` names the process that has the task, or is empty once
the task has ended by itself; the sorted set `<prefix>{<group>}:w` has the processes with members.
Both expire, because a process may die.
"""

from __future__ import annotations

import uuid
from typing import Any, Final

from websocket import conf
from websocket.groups import tasks
from websocket.groups.server import ClientOf, publish_errors, register
from websocket.groups.tasks import Lease, Leases

# Arguments: process, lease, and the three arguments of `Leases.ask`, as 1 or 0.
_ASK: Final = """
local process, lease, is_wanted, is_new, has_ended = unpack(ARGV)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
if is_wanted == '1' then
    redis.call('ZADD', KEYS[2], now + lease, process)
    redis.call('PEXPIRE', KEYS[2], lease)
else
    redis.call('ZREM', KEYS[2], process)
end
local owner = redis.call('GET', KEYS[1])
if redis.call('ZCARD', KEYS[2]) == 0 then
    if owner == '' then redis.call('DEL', KEYS[1]) end
    return 'over'
end
if has_ended == '1' and (owner == process or not owner) then owner = '' end
if owner == '' and is_new == '0' then
    redis.call('SET', KEYS[1], '', 'PX', lease)
    return 'ended'
end
if owner and owner ~= '' and owner ~= process then return 'taken' end
if owner ~= process and is_wanted == '0' then return 'over' end
redis.call('SET', KEYS[1], process, 'PX', lease)
return 'mine'
"""

_RELEASE: Final = """
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""


class RedisLeases(Leases):
    """The leases of one event loop among all processes."""

    def __init__(self, client_of: ClientOf) -> None:
        self.process = uuid.uuid4().hex
        self.client_of = client_of
        self.ask_script, self.release_script = register(client_of, _ASK, _RELEASE)

    async def ask(self, group: str, is_wanted: bool, is_new: bool, has_ended: bool) -> Lease:
        flags = [int(flag) for flag in (is_wanted, is_new, has_ended)]
        with publish_errors(f"Redis did not take the task of {group!r}"):
            answer = await self.call(self.ask_script, group, round(tasks.LEASE * 1000), *flags)
        return Lease(answer)

    async def release(self, group: str) -> None:
        with publish_errors(f"Redis did not take back the task of {group!r}"):
            await self.call(self.release_script, group)

    def call(self, script: Any, group: str, *args: int) -> Any:
        keys = [conf.redis_key(group, "t"), conf.redis_key(group, "w")]
        return script(keys=keys, args=[self.process, *args], client=self.client_of(group))
