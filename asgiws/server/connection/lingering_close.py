"""The lingering close: how a TCP connection ends whose peer may still be sending (RFC 9112 §9.6).

A socket that is closed while bytes arrive answers them with a reset, and that destroys what was written last before the
peer has read it. So only our side is closed; what arrives is discarded by the protocol of the transport until the peer
closes, or until nothing has left for the close timeout. HTTP, WebSocket and the preamble end this way.
"""

from __future__ import annotations

import asyncio

__all__ = ["LingeringClose"]


class LingeringClose:
    """The end of one transport. It starts when it is made, and counts its deadline in ticks of the sweep."""

    __slots__ = ("_deadline_ticks", "_ticks", "_transport", "_unsent_bytes")

    def __init__(self, transport: asyncio.Transport, deadline_ticks: int, *, discard: bool) -> None:
        """Close once everything written has left; with `discard`, close only our side and read on."""
        self._transport = transport
        self._deadline_ticks = deadline_ticks
        self._ticks = 0
        self._unsent_bytes = transport.get_write_buffer_size()
        if discard and transport.can_write_eof():
            transport.write_eof()
            transport.resume_reading()
        else:
            transport.close()

    def on_tick(self) -> None:
        """Count a tick, and abort when the deadline has passed; a client that still takes bytes starts it again."""
        unsent_bytes = self._transport.get_write_buffer_size()
        self._ticks = 0 if 0 < unsent_bytes < self._unsent_bytes else self._ticks + 1
        self._unsent_bytes = unsent_bytes
        if self._ticks >= self._deadline_ticks:
            self._transport.abort()
