"""The floor: a bare asyncio protocol that parses nothing, counts bytes and answers constants.

`python -m tests.bench.floor PORT LOOP`. What a client will send is in the query of its first request: `size` is that of
each message, `opcode` 1 or 2. No server that reads what it gets can cost less.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import cast
from urllib.parse import parse_qs, urlsplit

from asgiws.runner.loops import loop_factory
from tests.bench.wire import client_frame_bytes, server_frame
from tests.raw import ACCEPT

_HELLO = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\n"
_CLOSE = 0x88


class Floor(asyncio.Protocol):
    """One connection; the first packet has to be a whole request head."""

    writes: set[Callable[[bytes], None]] = set()  # noqa: RUF012 - of all the clients of the one broadcast

    def __init__(self) -> None:
        self._begun = False
        self._broadcasts = False
        self._answer = b""
        self._unit_bytes = 0
        self._have_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.write = self.transport.write

    def connection_lost(self, error: Exception | None) -> None:
        self.writes.discard(self.write)

    def data_received(self, data: bytes) -> None:
        if not self._begun:
            self._begin(data)
            return
        if data[0] == _CLOSE and not self._have_bytes:
            self.write(data[:1] + b"\x02\x03\xe8")
            self.transport.close()
            return
        count, self._have_bytes = divmod(self._have_bytes + len(data), self._unit_bytes)
        if not count:
            return
        if self._broadcasts:
            answer = self._answer
            for write in self.writes:
                write(answer)
        else:
            self.write(self._answer if count == 1 else self._answer * count)

    def _begin(self, data: bytes) -> None:
        head, _, rest = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])
        target = urlsplit(lines[0].split(" ")[1])
        query = {name: int(values[0]) for name, values in parse_qs(target.query).items()}
        self._begun = True
        if "upgrade" not in fields:
            length = int(fields.get("content-length", "0"))
            body = b"hello" if not length else b"%05d" % length
            self._answer = _HELLO + body
            self._unit_bytes = len(head) + 4 + length
            self.data_received(data)
            return
        assert not rest
        size = query.get("size", 5)
        self._answer = server_frame(query.get("opcode", 1), b"a" * size)
        self._unit_bytes = client_frame_bytes(size)
        self._broadcasts = target.path == "/broadcast"
        if self._broadcasts:
            self.writes.add(self.write)
        self.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n"
        )


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Floor, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    loop_factory(sys.argv[2])().run_until_complete(_serve(int(sys.argv[1])))
