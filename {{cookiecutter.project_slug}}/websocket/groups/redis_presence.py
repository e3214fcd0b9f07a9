"""Presence in Redis, shared by all processes.

A group has two keys. The sorted set `<prefix>{<group>}:p` has a holder for each pair of a process
and a member, and the time at which it expires. The hash `<prefix>{<group>}:i` has each member's
number of holders, a space, and its info as JSON. Every process renews its holders; those of a
process that has died expire, and whichever process looks next removes them.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import Any, Final

import redis.asyncio

from websocket import conf
from websocket.groups.message import PublishError
from websocket.groups.presence import Owner, Presence
from websocket.groups.server import ERRORS, ClientOf, publish_errors, register

logger = logging.getLogger("django.websocket")

# Seconds between two renewals of all members, and seconds after which a holder that was not renewed
# has expired. Together, a process that has died is forgotten within a minute.
RENEW: Final = 20.0
LIFETIME: Final = 40.0

# Members renewed by one call of a script.
_BATCH: Final = 1000

_COMMON: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local gone = {}
local function remove(holder)
    redis.call('ZREM', KEYS[1], holder)
    local key = string.sub(holder, string.find(holder, ':', 1, true) + 1)
    local count, info = string.match(redis.call('HGET', KEYS[2], key) or '', '^(%d+) (.*)$')
    if count and tonumber(count) > 1 then
        redis.call('HSET', KEYS[2], key, (count - 1) .. ' ' .. info)
    elseif count then
        redis.call('HDEL', KEYS[2], key)
        table.insert(gone, key)
        table.insert(gone, info)
    end
end
for _, holder in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1000)) do
    remove(holder)
end
local function keep()
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
"""

# Arguments: process, lifetime, key, info. Returns 1 if the member is new, then the members gone.
_ENTER: Final = """
local added = redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1] .. ':' .. ARGV[3])
local count = string.match(redis.call('HGET', KEYS[2], ARGV[3]) or '0 ', '^(%d+) ')
local holders = math.max(1, count + added)
redis.call('HSET', KEYS[2], ARGV[3], holders .. ' ' .. ARGV[4])
keep()
return {count == '0' and 1 or 0, gone}
"""

# Arguments: process, lifetime, key. Returns 1 if no other process has it, then the members gone.
_REMOVE: Final = """
local holder = ARGV[1] .. ':' .. ARGV[3]
local before = #gone
if redis.call('ZSCORE', KEYS[1], holder) then remove(holder) end
local is_last = #gone > before and 1 or 0
if is_last == 1 then
    table.remove(gone)
    table.remove(gone)
end
return {is_last, gone}
"""

# Arguments: process, lifetime, keys. Returns the members that were not there, and those gone.
_RENEW: Final = """
local holders, missing = {}, {}
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('DEL', KEYS[1]) end
for i = 3, #ARGV do
    table.insert(holders, now + ARGV[2])
    table.insert(holders, ARGV[1] .. ':' .. ARGV[i])
end
local renewed = redis.call('ZADD', KEYS[1], 'XX', 'CH', unpack(holders))
for i = 3, renewed < #ARGV - 2 and #ARGV or 0 do
    if not redis.call('ZSCORE', KEYS[1], ARGV[1] .. ':' .. ARGV[i]) then
        table.insert(missing, ARGV[i])
    end
end
keep()
return {missing, gone}
"""


class RedisPresence(Presence):
    """The members of one event loop's sockets, entered in Redis."""

    def __init__(self, owner: Owner, client_of: ClientOf) -> None:
        super().__init__(owner)
        self.client_of = client_of
        self.process = uuid.uuid4().hex
        self.enter_script, self.remove_script, self.renew_script = register(
            client_of, *(_COMMON + script for script in (_ENTER, _REMOVE, _RENEW))
        )
        self.renewing: asyncio.Task[None] | None = None

    async def enter(self, group: str, key: str, info: str) -> bool:
        if self.renewing is None:
            self.renewing = self.run(self.renew())
        with publish_errors(f"Redis did not take a member of {group!r}"):
            is_new, gone = await self.call(self.enter_script, group, key, info)
        self.tell_gone(group, gone)
        return bool(is_new)

    async def remove(self, group: str, key: str) -> bool:
        with publish_errors(f"Redis did not remove a member of {group!r}"):
            is_last, gone = await self.call(self.remove_script, group, key)
        self.tell_gone(group, gone)
        return bool(is_last)

    def call(self, script: Any, group: str, *args: str, client: Any = None) -> Any:
        keys = [conf.redis_key(group, "p"), conf.redis_key(group, "i")]
        lifetime = str(round(LIFETIME * 1000))
        if client is None:
            client = self.client_of(group)
        return script(keys=keys, args=[self.process, lifetime, *args], client=client)

    def tell_gone(self, group: str, gone: list[bytes]) -> None:
        for key, info in zip(gone[::2], gone[1::2], strict=True):
            self.tell(group, key.decode(), info.decode(), False)

    async def renew(self) -> None:
        """Renew all members while there are any."""
        try:
            while self.groups:
                await asyncio.sleep(RENEW)
                await self.renew_all()
        finally:
            self.renewing = None

    def stop(self) -> None:
        if self.renewing is not None:
            self.renewing.cancel()

    async def renew_all(self) -> None:
        """Renew the members once, on all servers at the same time."""
        groups: dict[redis.asyncio.Redis, list[str]] = {}
        for group in self.groups:
            groups.setdefault(self.client_of(group), []).append(group)
        await asyncio.gather(*(self.renew_on(client, groups[client]) for client in groups))

    async def renew_on(self, client: redis.asyncio.Redis, groups: list[str]) -> None:
        try:
            await self.renew_groups(client, groups)
        except (*ERRORS, PublishError) as error:
            logger.warning("Redis did not take the members of groups: %s", error)

    async def renew_groups(self, client: redis.asyncio.Redis, groups: list[str]) -> None:
        """Renew the members of some groups of one server, in one pipeline."""
        batches = []
        async with client.pipeline(transaction=False) as pipeline:
            for group in groups:
                keys = list(self.local(group))
                for start in range(0, len(keys), _BATCH):
                    batch = keys[start : start + _BATCH]
                    batches.append(group)
                    await self.call(self.renew_script, group, *batch, client=pipeline)
            answers = await pipeline.execute()
        for group, (missing, gone) in zip(batches, answers, strict=True):
            self.tell_gone(group, gone)
            for key in missing:  # Redis was emptied, or this process was held up for too long.
                await self.enter_again(group, key.decode())

    async def enter_again(self, group: str, key: str) -> None:
        present = self.groups.get(group, {}).get(key)
        if present is None:
            return
        async with present.lock:
            if present.entered is not None and await self.enter(group, key, present.entered):
                self.tell(group, key, present.entered, True)
