"""The flow of one connection: whether reading and writing are paused, who waits, and since when nothing has left.

One object serves a transport from its first byte to its last, also when HTTP becomes WebSocket.
"""

from __future__ import annotations

import asyncio

__all__ = ["FlowControl", "forget", "turn_now_and_then", "wait_in", "wake"]


def wake(waiters: list[asyncio.Future[None]]) -> None:
    """Wake every waiter; each checks its condition again."""
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
    waiters.clear()


async def wait_in(waiters: list[asyncio.Future[None]]) -> None:
    """Wait for the next `wake`. A cancelled waiter does not stay in `waiters`."""
    waiter = asyncio.get_running_loop().create_future()
    waiters.append(waiter)
    try:
        await waiter
    except asyncio.CancelledError:
        forget(waiters, waiter)
        raise


def forget(waiters: list[asyncio.Future[None]], waiter: asyncio.Future[None]) -> None:
    """Remove a cancelled waiter, unless it was woken already."""
    if waiter in waiters:
        waiters.remove(waiter)


async def turn_now_and_then(count: int) -> None:
    """Let the loop turn when `count` is a multiple of 128.

    For calls that an application may repeat without a pause. Mostly it returns at once: frameworks call `receive` for
    what is there and cancel it when it waits.
    """
    if not count & 127:
        await asyncio.sleep(0)


class FlowControl:
    """Both directions of one transport."""

    __slots__ = ("_senders", "_stuck_bytes", "_stuck_ticks", "_transport", "reading_paused", "write_paused")

    def __init__(self, transport: asyncio.Transport, high: int, low: int) -> None:
        """`high` and `low` are the water marks in bytes between which the transport pauses and resumes writing."""
        transport.set_write_buffer_limits(high, low)
        self._transport = transport
        self.reading_paused = False
        """Whether reading is paused."""
        self.write_paused = False
        self._senders: list[asyncio.Future[None]] | None = None
        """Made for the first that waits."""
        self._stuck_bytes = 0
        self._stuck_ticks = 0

    # ---- reading

    def pause_reading(self) -> None:
        """Stop reading: what the client sends fills its own buffers."""
        if not self.reading_paused:
            self.reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Resume reading."""
        if self.reading_paused:
            self.reading_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    # ---- writing

    def pause_writing(self) -> None:
        """Record that the transport holds more than the high-water mark."""
        self.write_paused = True
        self._stuck_ticks = 0
        self._stuck_bytes = self._transport.get_write_buffer_size()

    def resume_writing(self) -> None:
        """Wake the senders."""
        self.write_paused = False
        self.release_senders()

    async def wait_writable(self) -> None:
        """Wait until the transport has sent enough, or the connection has ended."""
        if self._senders is None:
            self._senders = []
        await wait_in(self._senders)

    def release_senders(self) -> None:
        """Wake the senders: there is room, or the connection has ended."""
        if self._senders is not None:
            senders, self._senders = self._senders, None
            wake(senders)

    def end(self) -> None:
        """Record that the transport is gone."""
        self.reading_paused = self.write_paused = False
        if self._senders is not None:
            self.release_senders()

    def progresses(self) -> bool:
        """Count a tick of the sweep; return whether data waits and some of it has left since the last tick."""
        return not self.ticks_without_progress() and self._stuck_bytes > 0

    def ticks_without_progress(self) -> int:
        """Count a tick of the sweep; return how many have passed since anything left, 0 when nothing waits."""
        waiting = self._transport.get_write_buffer_size()
        self._stuck_ticks = self._stuck_ticks + 1 if 0 < waiting >= self._stuck_bytes else 0
        self._stuck_bytes = waiting
        return self._stuck_ticks
