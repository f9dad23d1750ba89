"""The cork: holds back the frames of one connection, so that the answers to a burst leave in one write.

Frames are held while more messages wait for the application. They leave before `receive` waits for the next message,
at 64 KiB, before a Close, or when the loop turns.
"""

from __future__ import annotations

import asyncio
from typing import Final

__all__ = ["Cork"]

_MOST_BYTES: Final = 64 * 1024


class Cork:
    """Frames that were sent by the application and not yet written to the transport."""

    __slots__ = ("_frames", "_loop", "_transport", "held_bytes")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._frames: list[bytes] = []
        self.held_bytes = 0

    def hold(self, frame: bytes) -> None:
        """Hold back a frame."""
        if not self._frames:
            self._loop.call_soon(self.flush)
        self._frames.append(frame)
        self.held_bytes += len(frame)
        if self.held_bytes > _MOST_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        if self._frames:
            data = self._frames[0] if len(self._frames) == 1 else b"".join(self._frames)
            self.drop()
            self._transport.write(data)

    def drop(self) -> None:
        """Forget what is held: the connection is gone."""
        self._frames.clear()
        self.held_bytes = 0
