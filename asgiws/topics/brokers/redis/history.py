"""What topics keep in Redis: one stream for each topic, at the key that is its channel's name.

The id of an entry is the message's position, `epoch-offset`. The epoch is the time of the server, in milliseconds, at
which the stream began; so a stream that was lost, as Redis restarted, ran full or nothing was published for the time to
live, is followed by one with another epoch. An entry has three fields: when it expires, the text, and the generation of
the server: its replication id, which is another one after a restart and after a failover. What another generation has
written may not be everything that was published, so nothing is complete then, and the next message begins an epoch.

A script writes the stream and publishes in one step, so that what is published has a position, and what has a position
was published. The newest entry stays as long as the stream, so that offsets go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from typing import Any, Final

from asgiws.topics.history import START, Past, Position

__all__ = ["POSITIONS", "PUBLISH", "READ", "Script", "generation_of", "past_of", "position_of", "since_words"]


class Script:
    """A script, which Redis knows by its hash once it was run."""

    def __init__(self, text: str) -> None:
        self.text = text.encode()
        self.hash = sha1(self.text, usedforsecurity=False).hexdigest().encode()


# Removes what has expired; the newest entry remains.
_EXPIRE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function expire(key, newest)
  while true do
    local oldest = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
    if oldest[1] == newest or tonumber(oldest[2][2]) > now then return oldest end
    redis.call('XDEL', key, oldest[1])
  end
end
"""

PUBLISH: Final = Script(
    _EXPIRE
    + """
local key, generation, publish, limit = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local ttl, head, text = ARGV[4] * 1000, ARGV[5], ARGV[6]
local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
local epoch, offset = string.format('%.0f', now), 1
if newest then
  local dash = string.find(newest[1], '-', 1, true)
  epoch, offset = string.sub(newest[1], 1, dash - 1), tonumber(string.sub(newest[1], dash + 1)) + 1
  if newest[2][6] ~= generation then
    epoch, offset, limit = string.format('%.0f', math.max(now, epoch + 1)), 1, 1
  end
end
local at = string.format('%.0f', offset)
local id = epoch .. '-' .. at
redis.call('XADD', key, 'MAXLEN', limit, id, 'x', string.format('%.0f', now + ttl), 'd', text, 'g', generation)
expire(key, id)
redis.call('PEXPIRE', key, ttl)
return redis.call(publish, key, head .. epoch .. ':' .. at .. ' ' .. text)
"""
)
"""Key: the channel. Words: generation, PUBLISH or SPUBLISH, limit, seconds to live, head of the payload, text."""

READ: Final = Script(
    _EXPIRE
    + """
local key, generation, epoch, since = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local most_count, most_bytes = ARGV[4], tonumber(ARGV[5])
local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
if not newest then return {} end
local function number(id) return tonumber(string.sub(id, string.find(id, '-', 1, true) + 1)) end
local its_epoch = string.sub(newest[1], 1, string.find(newest[1], '-', 1, true) - 1)
local top = number(newest[1])
local oldest = top + 1
local first = expire(key, newest[1])
if tonumber(first[2][2]) > now then oldest = number(first[1]) end
local known = newest[2][6] == generation and epoch == its_epoch and oldest - 1 <= since and since <= top
local from = known and since + 1 or oldest
local texts, size = {}, 0
if from <= top then
  local start = its_epoch .. '-' .. string.format('%.0f', from)
  for _, entry in ipairs(redis.call('XRANGE', key, start, '+', 'COUNT', most_count)) do
    size = size + #entry[2][4]
    if #texts > 0 and size > most_bytes then break end
    texts[#texts + 1] = entry[2][4]
  end
end
return {its_epoch, top, from, known and 1 or 0, texts}
"""
)
"""Key: the channel. Words: generation, those of `since_words`. Returns what `past_of` takes."""

POSITIONS: Final = Script("""
local found = {}
for place, key in ipairs(KEYS) do
  local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  if newest then found[#found + 1] = {place, newest[1], newest[2][6]} end
end
return found
""")
"""Keys: channels. Returns the place of each that has a stream, with the id and the generation of its newest entry."""

_GENERATION_BYTES: Final = 12
_PAGE_MOST_COUNT: Final = b"500"
_PAGE_MOST_BYTES: Final = b"262144"


def since_words(since: Position) -> tuple[bytes, ...]:
    """Return words of READ: epoch and offset of a position, most entries, most bytes of a page."""
    return since.epoch.encode(), b"%d" % since.offset, _PAGE_MOST_COUNT, _PAGE_MOST_BYTES


def past_of(found: Sequence[Any], since: Position) -> Past:
    """Return what READ has found."""
    if not found:
        return Past("", 0, 1, [], since == START)
    epoch, top, first, known, texts = found
    return Past(epoch.decode(), top, first, texts, bool(known) or since == START)


def generation_of(replication: bytes) -> bytes:
    """Return the generation of a server, from its INFO."""
    for line in replication.splitlines():
        name, _, value = line.partition(b":")
        if name == b"master_replid":
            return value[:_GENERATION_BYTES]
    return b""


def position_of(entry_id: bytes) -> Position:
    """Return the position of an entry."""
    epoch, _, offset = entry_id.partition(b"-")
    return Position(epoch.decode(), int(offset))
