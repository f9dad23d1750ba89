"""The cork: holds back the frames of one connection, so that the answers to a burst leave in one write.

Frames are held while more messages wait for the application. They leave before `receive` waits for the next message,
at 64 KiB, before a Close, or when the loop turns, and the cork is gone with them: an idle connection has none.
"""

from __future__ import annotations

from typing import Final

__all__ = ["CORK_MOST_BYTES", "Cork"]

CORK_MOST_BYTES: Final = 64 * 1024


class Cork:
    """Frames that were sent by the application and not yet written to the transport."""

    __slots__ = ("frames", "held_bytes")

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.held_bytes = 0
