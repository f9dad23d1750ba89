"""One Redis server: a connection for commands, and one for what is published.

Two, because Redis limits what may wait for a subscriber by closing its connection. Both are lost together.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from asgiws.topics.brokers.redis.connection import Pipe, describe
from asgiws.topics.brokers.session import BrokerError

__all__ = ["Node", "Verbs"]

_MOVED: Final = "the cluster has moved a slot"


class Verbs:
    """The commands and events of publish and subscribe, either plain or sharded."""

    def __init__(self, *, sharded: bool) -> None:
        letter = b"s" if sharded else b""
        self.subscribe = letter + b"subscribe"
        self.unsubscribe = letter + b"unsubscribe"
        self.publish = letter + b"publish"
        self.message = letter + b"message"
        self.most_channels = 1 if sharded else 500
        """Of one command: those of a sharded one must be in the same slot."""


class Node:
    """A server. `on_message` gets channel and payload; `on_lost` the reason when a connection ends, perhaps twice."""

    def __init__(
        self,
        known: Mapping[str, Any],
        verbs: Verbs,
        on_message: Callable[[bytes, bytes], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._verbs = verbs
        self._on_message = on_message
        self._on_lost = on_lost
        self._commands = Pipe(known, self._on_reply, self._lose)
        self._subscriber = Pipe(known, self._on_event, self._lose)
        self._replies: deque[asyncio.Future[Any]] = deque()
        """What waits for the replies of commands, in order."""
        self._subscribing: deque[tuple[asyncio.Future[None], int]] = deque()
        """SUBSCRIBE commands in order: what waits for each, and its channels that were not confirmed yet."""
        self._leaving: set[bytes] = set()
        """Channels from which it unsubscribes."""
        self._lost = ""

    async def open(self) -> None:
        """Connect. Raises BrokerError."""
        await self._commands.open()
        await self._subscriber.open()

    async def close(self) -> None:
        """End."""
        try:
            await self._commands.close()
        finally:
            await self._subscriber.close()

    async def command(self, *words: bytes) -> Any:
        """Send a command; return the reply. Raises BrokerError."""
        await self._commands.wait_room()
        self._check()
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._replies.append(reply)
        self._commands.send(*words)
        return await reply

    async def subscribe(self, channels: Sequence[bytes]) -> None:
        """Return once the channels are confirmed. Raises BrokerError."""
        self._check()
        most, waiting = self._verbs.most_channels, []
        for start in range(0, len(channels), most):
            some = channels[start : start + most]
            self._leaving.difference_update(some)
            confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._subscribing.append((confirmed, len(some)))
            self._subscriber.send(self._verbs.subscribe, *some)
            waiting.append(confirmed)
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    def unsubscribe(self, channels: Sequence[bytes]) -> None:
        """Get the channels no more. Raises BrokerError."""
        self._check()
        most = self._verbs.most_channels
        self._leaving.update(channels)
        for start in range(0, len(channels), most):
            self._subscriber.send(self._verbs.unsubscribe, *channels[start : start + most])

    def _check(self) -> None:
        if self._lost:
            raise BrokerError(self._lost)

    def _on_reply(self, reply: Any) -> None:
        waiting = self._replies.popleft()
        if not waiting.done():
            if isinstance(reply, Exception):
                waiting.set_exception(_error_of(reply))
            else:
                waiting.set_result(reply)
        self._notice_move(reply)

    def _on_event(self, event: Any) -> None:
        if isinstance(event, Exception):  # of a SUBSCRIBE: the only command here that may be refused
            confirmed, _ = self._subscribing.popleft()
            if not confirmed.done():
                confirmed.set_exception(_error_of(event))
            self._notice_move(event)
            return
        kind, channel, *rest = event
        if kind == self._verbs.message:
            self._on_message(channel, rest[0])
        elif kind == self._verbs.subscribe:
            confirmed, left = self._subscribing.popleft()
            if left > 1:
                self._subscribing.appendleft((confirmed, left - 1))
            elif not confirmed.done():
                confirmed.set_result(None)
        elif kind == self._verbs.unsubscribe and self._verbs.most_channels == 1 and channel not in self._leaving:
            self._lose(_MOVED)

    def _notice_move(self, reply: Any) -> None:
        """End when another server has become responsible for a channel: what it published was missed."""
        if type(reply).__name__ == "MovedError":  # of redis-py, which is imported where it is connected
            self._lose(_MOVED)

    def _lose(self, reason: str) -> None:
        self._lost = self._lost or reason
        waiting: list[asyncio.Future[Any]] = [*self._replies, *(confirmed for confirmed, _ in self._subscribing)]
        self._replies.clear()
        self._subscribing.clear()
        for each in waiting:
            if not each.done():
                each.set_exception(BrokerError(reason))
                each.exception()
        self._on_lost(reason)


def _error_of(reply: Exception) -> BrokerError:
    error = BrokerError(describe(reply))
    error.__cause__ = reply
    return error
