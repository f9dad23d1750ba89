"""The channel between the supervisor and a worker: JSON objects, one a line, over a pair of connected sockets.

To the worker, first of all its order, before it has an event loop:

    {"target": "app:app", "config": {...}, "reports": true}
                                                    what to serve, with the listening sockets as `fd:` addresses, and
                                                    whether heartbeats shall tell what was counted

then, at any time:

    {"do": "stop", "replaced": true}                drain and end; `replaced` when a successor is ready
    {"do": "force"}                                 end, and wait for nobody
    {"do": "reopen"}                                open log files anew
    {"do": "close", "ask": 1, "number": 7, "code": 4000, "reason": "..."}
                                                    close a WebSocket; the answer is whether it was open
    {"do": "close_many", "ask": 2, "which": {...}}  close many (`asgiws.server.bulk_close`); the answer is how many

To the supervisor:

    {"is": "imported"}                              the application is imported, its start begins, orders are taken
    {"is": "ready"}                                 the application has started, connections are accepted
    {"is": "alive", ...}                            a heartbeat, at least once a second and at the end, with what the
                                                    worker has counted (`asgiws.server.stats`) when that was asked for
    {"is": "due", "why": "..."}                     it has served enough and wants a successor
    {"is": "answer", "ask": 1, "value": true}       to the order with that number

Either end finds out that the other process has died by the end of the stream.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any, Final, cast

__all__ = ["Channel", "Message", "receive_order"]

Message = dict[str, Any]

# A supervisor that is stopped in a debugger does not make its workers grow.
_UNSENT_MOST_BYTES: Final = 1024 * 1024
_PIECE_BYTES: Final = 64 * 1024


def receive_order(pipe: socket.socket) -> Message:
    """Wait for the order. Raises EOFError when the supervisor has gone."""
    line = bytearray()
    while not line.endswith(b"\n"):
        # Looked at before it is taken, so that what comes behind stays in the socket for the event loop.
        found = pipe.recv(_PIECE_BYTES, socket.MSG_PEEK)
        if not found:
            raise EOFError("the supervisor has gone")
        line += pipe.recv(found.find(b"\n") + 1 or len(found))
    return cast("Message", json.loads(line))


class Channel(asyncio.Protocol):
    """One end, once there is an event loop."""

    def __init__(self, on_message: Callable[[Message], None], on_end: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self._buffer = b""
        self._transport: asyncio.Transport

    @classmethod
    async def connect(
        cls, pipe: socket.socket, on_message: Callable[[Message], None], on_end: Callable[[], None]
    ) -> Channel:
        """Take over one of the two sockets."""
        pipe.setblocking(False)
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_unix_connection(lambda: cls(on_message, on_end), sock=pipe)
        return channel

    def send(self, message: Message) -> None:
        """Send, unless the other end has gone or does not read."""
        if not self._transport.is_closing() and self._transport.get_write_buffer_size() < _UNSENT_MOST_BYTES:
            self._transport.write(json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        """End it, from this side; that is not told."""
        self._on_end = _tell_nobody
        self._transport.close()

    # ---- called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take lines."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._on_message(json.loads(line))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that the other process has gone."""
        self._on_end()


def _tell_nobody() -> None:
    pass
