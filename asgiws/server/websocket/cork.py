"""The cork: holds back the frames of one connection, so that the answers to a burst leave in one write.

Frames are held while more messages wait for the application. They leave before `receive` waits for the next message,
at 64 KiB, before a Close, or when the loop turns.
"""

from __future__ import annotations

import asyncio
from typing import Final

__all__ = ["CORK_MOST_BYTES", "Cork"]

CORK_MOST_BYTES: Final = 64 * 1024


class Cork:
    """Frames that were sent by the application and not yet written to the transport."""

    __slots__ = ("_transport", "frames", "held_bytes")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.frames: list[bytes] | None = None
        """What is held; `send` makes it and appends to it, and has the loop call `flush`."""
        self.held_bytes = 0

    def flush(self) -> None:
        """Write what is held."""
        if self.frames:
            data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
            self.drop()
            self._transport.write(data)

    def drop(self) -> None:
        """Forget what is held: the connection is gone."""
        self.frames = None
        self.held_bytes = 0
