"""Who ended a WebSocket: the deadlines. A client that answers no ping, and one that does not read.

The bytes on the wire, the application's `receive`, and its later `send`, as in `test_ends`.
"""

from __future__ import annotations

import asyncio

import pytest

import asgiws
from tests.apps import Receive, Recorder, Send, say
from tests.asgi.app_help import (
    NEVER_S,
    assert_app_saw,
    disconnected,
    error_of,
    on_websocket,
    read_to_disconnect,
    websocket_watcher,
)
from tests.conftest import Serve
from tests.raw import RawClient, frame, text

# ---- the keepalive


def test_peer_that_does_not_answer_a_ping_is_closed_1011(serve: Serve) -> None:
    """RFC 6455 §5.5.2; ASGI W1: a ping, then Close 1011 and the end, without waiting for an answer to that."""
    seen = Recorder()
    server = serve(websocket_watcher(seen), ping_interval=0.2, ping_timeout=0.2, close_timeout=NEVER_S)
    with RawClient(server.port) as client:
        client.open_websocket()
        assert client.read_frame()[0] == 0x89
        assert client.read_close() == (1011, "keepalive ping timeout")
        assert client.read_to_end() == b""
        assert_app_saw(seen, disconnected(1011, "keepalive ping timeout"))


def test_peer_is_closed_after_as_many_unanswered_pings_as_the_option_says(serve: Serve) -> None:
    """--ping-misses."""
    server = serve(websocket_watcher(Recorder()), ping_interval=0.1, ping_timeout=0.1, ping_misses=3)
    with RawClient(server.port) as client:
        client.open_websocket()
        for _ in range(3):
            assert client.read_frame()[0] == 0x89
        assert client.read_close() == (1011, "keepalive ping timeout")
        assert server.call(lambda: server.server.counters.keepalive_timeouts) == 1


def test_busy_app_whose_client_does_not_answer_learns_at_its_next_send(serve: Serve) -> None:
    """ASGI W26: the keepalive does not wait for the application; nor does the application have to receive."""
    seen, go_on = Recorder(), asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        await go_on.wait()
        seen.put(await error_of(say(send, "too late")))
        seen.put(await receive())

    server = serve(on_websocket(talk), ping_interval=0.2, ping_timeout=0.2)
    with RawClient(server.port) as client:
        client.open_websocket()
        assert client.read_frame()[0] == 0x89
        assert client.read_close() == (1011, "keepalive ping timeout")
        assert client.read_to_end() == b""
        server.call(go_on.set)
        assert type(seen.next()) is asgiws.ClientDisconnected
        assert seen.next() == disconnected(1011, "keepalive ping timeout")


@pytest.mark.parametrize("unread", [0, 3], ids=["nothing unread", "unread messages"])
def test_busy_app_whose_client_answers_pings_is_left_alone(serve: Serve, unread: int) -> None:
    """ASGI W1: pings and pongs go on without the application, however long it takes."""
    go_on = asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        await go_on.wait()
        await say(send, "done at last")

    server = serve(on_websocket(talk), ping_interval=0.1, ping_timeout=0.2)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(text("unread") * unread)
        for _ in range(6):
            first, payload = client.read_frame()
            assert first == 0x89
            client.send(frame(10, payload))
        server.call(go_on.set)
        while (answered := client.read_frame())[0] == 0x89:
            client.send(frame(10, answered[1]))
        assert answered == (0x81, b"done at last")


def test_client_whose_pongs_are_not_read_is_left_alone(serve: Serve) -> None:
    """RFC 6455 §5.5.2: while a busy application's inbox is full we do not read, so the silence is ours.

    Another connection is the clock: it is pinged several times over.
    """
    go_on, seen = asyncio.Event(), Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        seen.put("open")
        await go_on.wait()
        await say(send, "done at last")

    server = serve(on_websocket(talk), ping_interval=0.1, ping_timeout=0.2)
    with RawClient(server.port) as client, RawClient(server.port) as clock:
        client.open_websocket()
        client.send(text("unread") * 50_000)
        clock.open_websocket()
        assert [seen.next(), seen.next()] == ["open", "open"]
        for _ in range(6):
            first, payload = clock.read_frame()
            assert first == 0x89
            clock.send(frame(10, payload))
        server.call(go_on.set)
        while (answered := client.read_frame())[0] == 0x89:
            pass
        assert answered == (0x81, b"done at last")


# ---- the slow consumer


def test_slow_consumer_is_dropped_and_told_as_1006(serve: Serve) -> None:
    """ASGI W8, W26: writes stuck for `write_timeout` abort; the blocked send raises, and receive has the reason."""
    seen = Recorder()
    size = 64 * 2**20

    async def talk(receive: Receive, send: Send) -> None:
        seen.put(await error_of(say(send, bytes(size))))
        await read_to_disconnect(receive, seen)
        seen.put(await receive())
        seen.put(await error_of(say(send, "too late")))

    with RawClient(serve(on_websocket(talk), write_timeout=0.3).port, receive_buffer=4096) as client:
        client.open_websocket()
        assert type(seen.next()) is asgiws.ClientDisconnected
        assert_app_saw(seen, disconnected(1006, "slow consumer"))
        assert len(client.read_to_end()) < size
