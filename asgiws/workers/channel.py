"""The channel between the supervisor and a worker: JSON objects, one per line, over a pair of connected sockets.

The first line to the worker, before it has an event loop:

    {"target": "app:app", "config": {...}, "reports": true}
                                                    what to serve, with the listening sockets as `fd:` addresses, and
                                                    whether heartbeats carry reports

then, at any time:

    {"do": "stop", "replaced": true}                drain and exit; `replaced` when other workers serve on
    {"do": "force"}                                 exit without waiting
    {"do": "reopen"}                                reopen log files
    {"do": "stop_accepting", "ask": 3}              leave new connections to the successor; answered then
    {"do": "close", "ask": 1, "number": 7, "code": 4000, "reason": "..."}
                                                    close a WebSocket; the answer is whether it was open
    {"do": "close_many", "ask": 2, "which": {...}}  close many (`asgiws.server.bulk_close`); the answer is how many
    {"do": "find", "ask": 3, "which": {...}}        describe some of those that match; the answer is a list of rows

To the supervisor:

    {"is": "imported"}                              the application is imported, its lifespan begins, orders are read
    {"is": "ready"}                                 the application has started, connections are accepted
    {"is": "alive", ...}                            a heartbeat, at least once a second and at the end, with the report
                                                    of the worker (`asgiws.server.stats`) if reports were asked for
    {"is": "due", "why": "..."}                     it has served enough and wants a successor
    {"is": "answer", "ask": 1, "value": true}       to the order with that number

The end of the stream means that the other process has exited.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any, Final, cast

from asgiws.config.posix import POSIX

__all__ = ["Channel", "Message", "receive_order"]

Message = dict[str, Any]

# Bounds the memory of the workers while their supervisor is suspended
_UNSENT_MOST_BYTES: Final = 1024 * 1024
_PIECE_BYTES: Final = 64 * 1024


def receive_order(pipe: socket.socket) -> Message:
    """Wait for the first line. Raises EOFError when the supervisor has exited."""
    line = bytearray()
    while not line.endswith(b"\n"):
        # Peeked at first, so that what follows the line stays in the socket for the event loop.
        found = pipe.recv(_PIECE_BYTES, socket.MSG_PEEK)
        if not found:
            raise EOFError("the supervisor has exited")
        line += pipe.recv(found.find(b"\n") + 1 or len(found))
    return cast("Message", json.loads(line))


class Channel(asyncio.Protocol):
    """One end of the channel, on an event loop."""

    def __init__(self, on_message: Callable[[Message], None], on_end: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self._buffer = b""
        self._transport: asyncio.Transport

    @classmethod
    async def connect(
        cls, pipe: socket.socket, on_message: Callable[[Message], None], on_end: Callable[[], None]
    ) -> Channel:
        """Return a channel on one of the two sockets, which it owns from now on."""
        pipe.setblocking(False)
        loop = asyncio.get_running_loop()
        connect = loop.create_unix_connection if POSIX else loop.create_connection
        _, channel = await connect(lambda: cls(on_message, on_end), sock=pipe)
        return channel

    def send(self, message: Message) -> None:
        """Send a message; drop it when the other process has exited or does not read."""
        if not self._transport.is_closing() and self._transport.get_write_buffer_size() < _UNSENT_MOST_BYTES:
            self._transport.write(json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        """Close the channel from this side, without a call of `on_end`."""
        self._on_end = _do_nothing
        self._transport.close()

    # ---- called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Pass on each whole line."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._on_message(json.loads(line))

    def connection_lost(self, exc: Exception | None) -> None:
        """Report that the other process has exited."""
        self._on_end()


def _do_nothing() -> None:
    pass
