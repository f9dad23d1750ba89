"""What waits to be sent: the water marks, and the one pong that is kept for a client that does not read."""

from __future__ import annotations

import asyncio
import socket

from asgiws.server.asgi import Scope
from tests.apps import Receive, Recorder, Send, refuse_lifespan
from tests.conftest import Serve
from tests.raw import RawClient, close, frame


def test_only_the_newest_of_pings_that_could_not_be_answered_is_answered(serve: Serve) -> None:
    """RFC 6455 §5.5.3: the most recent ping may be the only one that is answered."""
    blocked = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        await receive()
        await send({"type": "websocket.accept"})
        sending = asyncio.ensure_future(send({"type": "websocket.send", "bytes": bytes(16 * 1024 * 1024)}))
        await asyncio.sleep(0)
        blocked.put(sending.done())
        await sending
        await receive()

    server = serve(app, ping_interval=0)
    with RawClient(server.port, receive_buffer=4096) as client:
        client.open_websocket()
        assert blocked.next() is False, "send() did not wait for a full transport"
        client.send(b"".join(frame(9, b"%d" % number) for number in range(100)))
        # A handshake on the same loop comes back only after the pings were read.
        with RawClient(server.port) as other:
            other.open_websocket()
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024 * 1024)  # else it takes half a minute
        assert client.read_frame() == (0x82, bytes(16 * 1024 * 1024))
        client.send(close())
        pongs = []
        first, payload = client.read_frame()
        while first == 0x8A:
            pongs.append(payload)
            first, payload = client.read_frame()
        assert pongs == [b"99"]
        assert first == 0x88


def test_send_waits_above_the_high_water_mark_and_not_below(serve: Serve) -> None:
    """The unsent data of a client that does not read: the kernel's buffers, and then the mark."""
    counts: dict[int, int] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        await receive()
        await send({"type": "websocket.accept"})
        mark = int(scope["path"][1:])
        counts[mark] = 0
        while True:
            await send({"type": "websocket.send", "bytes": bytes(1000)})
            counts[mark] += 1

    sent = {}
    for mark in (10_000, 4_000_000):
        server = serve(app, write_high_water=mark, write_timeout=0)
        with RawClient(server.port, receive_buffer=4096) as client:
            client.open_websocket(f"/{mark}")
            seen = [-1, -2]
            while len(set(seen[-30:])) > 1 or len(seen) < 60:
                seen.append(server.call(lambda: counts.get(mark, 0)))  # noqa: B023 - called at once
            sent[mark] = seen[-1] * 1000
    assert 3_500_000 < sent[4_000_000] - sent[10_000] < 4_500_000
