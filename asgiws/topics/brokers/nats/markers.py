"""Markers: how a session learns that a server has taken what was sent.

A marker is a message to the session itself. A NATS server handles what one connection sends in order, so when a marker
comes back, all that was sent before it was taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from asgiws.topics.brokers.session import BrokerError

__all__ = ["Markers"]


class Markers:
    """The markers of one session. One is under way at a time; what is sent meanwhile shares the next one."""

    def __init__(self, send: Callable[[bytes], Coroutine[Any, Any, None]]) -> None:
        self._send = send
        self._sending: asyncio.Task[None] | None = None
        self._number = 0
        self._under_way: asyncio.Future[None] | None = None
        self._next: asyncio.Future[None] | None = None
        self._ended = ""

    async def wait(self) -> None:
        """Return once the server has taken all that was sent so far. Raises BrokerError."""
        if self._ended:
            raise BrokerError(self._ended)
        waiting = self._next
        if waiting is None:
            self._next = waiting = asyncio.get_running_loop().create_future()
            if self._under_way is None:
                self._begin()
        await asyncio.shield(waiting)

    def take(self, payload: bytes) -> None:
        """Note that one came back."""
        if payload == b"%d" % self._number and self._under_way is not None:
            done, self._under_way = self._under_way, None
            if not done.done():
                done.set_result(None)
            if self._next is not None:
                self._begin()

    def refuse(self, reason: str) -> None:
        """Let those fail that wait for the one that is under way."""
        _fail(self._under_way, reason)

    def end(self, reason: str) -> None:
        """Let all fail."""
        self._ended = self._ended or reason
        _fail(self._under_way, reason)
        _fail(self._next, reason)
        if self._sending is not None:
            self._sending.cancel()

    def _begin(self) -> None:
        self._number += 1
        self._under_way, self._next = self._next, None
        self._sending = asyncio.get_running_loop().create_task(self._send(b"%d" % self._number))


def _fail(waiting: asyncio.Future[None] | None, reason: str) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_exception(BrokerError(reason))
        waiting.exception()  # perhaps nobody waits any more
