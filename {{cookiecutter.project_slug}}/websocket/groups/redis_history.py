"""Histories in Redis: a message is numbered, kept and published in one step.

A group has two keys. The hash `<prefix>{<group>}:m` has the version of this layout, the epoch and
the number of messages so far; it is kept for 30 days. The stream `<prefix>{<group>}:s` has the last
messages, under their numbers. On its channel, a message has a line with the version and its
position before what `Message.pack` returns.
"""

from __future__ import annotations

import logging
import secrets
from typing import Any, Final, NamedTuple

from websocket import conf
from websocket.groups.message import Message

logger = logging.getLogger("django.websocket")

VERSION: Final = b"1"

_COUNTED_FOR: Final = 30 * 24 * 3600

# Arguments: version, epoch for a new history, seconds for which messages are counted.
_COMMON: Final = """
local version = redis.call('HGET', KEYS[1], 'version')
local is_known = not version or version == ARGV[1]
local epoch = redis.call('HGET', KEYS[1], 'epoch')
local function begin()
    epoch = ARGV[2]
    redis.call('HSET', KEYS[1], 'version', ARGV[1], 'epoch', epoch, 'count', 0)
    redis.call('DEL', KEYS[2])
end
if is_known and not epoch then begin() end
if is_known then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
"""

# More arguments: the channel, the message, the most messages, seconds for which they are kept.
PUBLISH: Final = (
    _COMMON
    + """
if not is_known then
    redis.call('PUBLISH', ARGV[4], ARGV[5])
    return 0
end
local count = redis.call('HINCRBY', KEYS[1], 'count', 1)
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[6], count .. '-0', 'm', ARGV[5])
redis.call('EXPIRE', KEYS[2], ARGV[7])
redis.call('PUBLISH', ARGV[4], ARGV[1] .. ' ' .. epoch .. '-' .. count .. '\\n' .. ARGV[5])
return 1
"""
)

# One more argument: the offset after which messages are read, or none. Returns the epoch (empty if
# the version is not known), the number of messages so far, and the messages. A server that was
# started again, or replaced by another one, may have lost messages: then a new epoch begins.
READ: Final = (
    _COMMON
    + """
if not is_known then return {'', 0, {}} end
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local known_run = redis.call('HGET', KEYS[1], 'run')
if known_run and known_run ~= run then begin() end
if known_run ~= run then redis.call('HSET', KEYS[1], 'run', run) end
local messages = {}
if ARGV[4] ~= '' then messages = redis.call('XRANGE', KEYS[2], ARGV[4] + 1, '+') end
return {epoch, tonumber(redis.call('HGET', KEYS[1], 'count')), messages}
"""
)

_warned: set[str] = set()


class Stored(NamedTuple):
    """A history as Redis has it: the messages have consecutive offsets, up to the last one."""

    epoch: str
    offset: int
    messages: list[tuple[Message, str | None]]


def to_publish(group: str, packed: bytes) -> dict[str, Any]:
    """Return the keys and arguments of PUBLISH."""
    length, channel = conf.history_length(group), conf.REDIS_PREFIX + group
    return _call(group, channel, packed, length, round(conf.HISTORY_TTL) or 1)


def to_read(group: str, after: int | None) -> dict[str, Any]:
    """Return the keys and arguments of READ."""
    return _call(group, "" if after is None else after)


def _call(group: str, *args: Any) -> dict[str, Any]:
    return {
        "keys": [conf.redis_key(group, "m"), conf.redis_key(group, "s")],
        "args": [VERSION, secrets.token_hex(4), _COUNTED_FOR, *args],
    }


def unpack_stored(group: str, answer: list[Any]) -> Stored | None:
    """Return what Redis answered to READ; warn and return None if it is of another version."""
    epoch, offset, entries = answer
    try:
        messages = [Message.unpack(fields[1])[:2] for _, fields in entries]
    except ValueError:
        epoch = b""
    if not epoch:
        warn_of_version(group)
        return None
    return Stored(epoch.decode(), offset, messages)


def split(group: str, packed: bytes) -> tuple[tuple[str, int] | None, bytes]:
    """Return the epoch and offset in a message's first line, if any, and the rest."""
    line, _, rest = packed.partition(b"\n")
    version, _, position = line.partition(b" ")
    epoch, _, offset = position.partition(b"-")
    if version != VERSION or not offset.isdigit():
        warn_of_version(group)
        return None, rest
    return (epoch.decode(), int(offset)), rest


def warn_of_version(group: str) -> None:
    if group not in _warned:
        _warned.add(group)
        logger.warning(
            "The history of the group %r in Redis is from another version of this project: its "
            "messages are delivered, but not kept for clients that were away.",
            group,
        )
