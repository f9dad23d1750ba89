"""ASGI WebSocket 2.5: messages in both directions, and `send` after the end (checklist 4.3, W1, W7, W9 and W26).

How a connection ends, and what the application is told of it (W2, W8, W10), is in `test_ends`.
"""

from __future__ import annotations

import asyncio
import threading
from time import monotonic

import pytest

import asgiws
from tests import PATIENCE_S
from tests.apps import Receive, Recorder, Send, echo, say
from tests.asgi.app_help import (
    disconnected,
    error_lines,
    error_of,
    on_websocket,
    read_to_disconnect,
    received,
    wait_connections,
    websocket_watcher,
)
from tests.conftest import Serve
from tests.raw import RawClient, close, frame, text

PING, PONG = 9, 10
SIZES = [0, 1, 125, 126, 127, 65535, 65536, 1_000_000]
"""Around each form that a length has in a frame (RFC 6455 §5.2)."""


# ---- W1: what the server does by itself


@pytest.mark.parametrize("payload", [b"", b"hello", b"\x00\xff" * 62 + b"\x80"], ids=len)
def test_w1_ping_is_answered_by_the_server_and_not_delivered(serve: Serve, payload: bytes) -> None:
    """ASGI W1; RFC 6455 §5.5.2: a Pong with the payload of the Ping, though the application only receives."""
    seen = Recorder()
    with RawClient(serve(websocket_watcher(seen)).port) as client:
        client.open_websocket()
        client.send(frame(PING, payload))
        assert client.read_frame() == (0x8A, payload)
        client.send(frame(PONG, b"nobody asked") + text("message"))
        assert seen.next() == received("message")


def test_w1_ping_is_answered_while_the_app_is_busy(serve: Serve) -> None:
    """ASGI W1: the application takes no part in it."""
    go_on = asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        await go_on.wait()

    server = serve(on_websocket(talk))
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(text("unread") + frame(PING, b"busy?"))
        assert client.read_frame() == (0x8A, b"busy?")
        server.call(go_on.set)
        assert client.read_close() == (1000, "")


def test_w1_server_pings_a_silent_client(serve: Serve) -> None:
    """ASGI W1: the server sends pings as needed; the application hears neither of them nor of the pongs."""
    seen = Recorder()
    with RawClient(serve(websocket_watcher(seen), ping_interval=0.1, ping_timeout=20).port) as client:
        client.open_websocket()
        for _ in range(3):
            first, payload = client.read_frame()
            assert first == 0x89
            client.send(frame(PONG, payload))
        client.send(text("still here"))
        assert seen.next() == received("still here")


def test_w1_fragments_are_delivered_as_one_message(serve: Serve) -> None:
    """ASGI W1: whole messages; control frames may stand between the fragments (RFC 6455 §5.4)."""
    seen = Recorder()
    word = "caf\u00e9 \U0001f4a9".encode()
    with RawClient(serve(websocket_watcher(seen)).port) as client:
        client.open_websocket()
        client.send(frame(1, word[:4], fin=False))
        client.send(frame(PING, b"between") + frame(0, fin=False) + frame(0, word[4:8], fin=False))
        assert client.read_frame() == (0x8A, b"between")
        assert seen.empty
        client.send(frame(0, word[8:]))
        assert seen.next() == received("caf\u00e9 \U0001f4a9")
        client.send(frame(2, b"\xff", fin=False) + frame(0, fin=False) + frame(0) + text("next"))
        assert [seen.next(), seen.next()] == [received(b"\xff"), received("next")]


# ---- W7: messages


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("character", ["x", "\u00e9", b"\xff"], ids=["ASCII", "text", "binary"])
def test_w7_message_of_any_size_is_echoed_unchanged(serve: Serve, size: int, character: str | bytes) -> None:
    """ASGI W7: text as str, binary as bytes, both ways."""
    binary = isinstance(character, bytes)
    payload = character * size if isinstance(character, bytes) else (character * size).encode()
    with RawClient(serve(echo).port) as client:
        client.open_websocket()
        client.send(frame(2 if binary else 1, payload))
        assert client.read_frame() == (0x82 if binary else 0x81, payload)


@pytest.mark.parametrize("payload", ["text", "", b"bytes", b""])
def test_w7_event_has_exactly_one_payload(serve: Serve, payload: str | bytes) -> None:
    """ASGI W7: exactly one of `bytes` and `text` is not None, also when it is empty."""
    seen = Recorder()
    with RawClient(serve(websocket_watcher(seen)).port) as client:
        client.open_websocket()
        client.send(text(payload) if isinstance(payload, str) else frame(2, payload))
        event = seen.next()
        expected = (payload, None) if isinstance(payload, str) else (None, payload)
        assert (event.get("text"), event.get("bytes")) == expected
        assert set(event) <= {"type", "text", "bytes"}


class Text(str):
    """What a framework may make of a str."""


@pytest.mark.parametrize(
    ("fields", "first", "payload"),
    [
        ({"text": "x", "bytes": None}, 0x81, b"x"),
        ({"text": None, "bytes": b"x"}, 0x82, b"x"),
        ({"text": ""}, 0x81, b""),
        ({"bytes": b""}, 0x82, b""),
        ({"text": "", "bytes": None}, 0x81, b""),
        ({"text": None, "bytes": b""}, 0x82, b""),
        ({"text": Text("sub")}, 0x81, b"sub"),
        ({"text": "\x00\u00e9\U0001f4a9"}, 0x81, b"\x00\xc3\xa9\xf0\x9f\x92\xa9"),
        ({"text": "\u00e9" * 100}, 0x81, b"\xc3\xa9" * 100),
        ({"bytes": bytearray(b"array")}, 0x82, b"array"),
        ({"bytes": memoryview(b"v-i-e-w")[::2]}, 0x82, b"view"),
    ],
)
def test_w7_send_takes_either_payload(serve: Serve, fields: dict[str, object], first: int, payload: bytes) -> None:
    """ASGI W7: both keys may be there, one of them None."""

    async def talk(receive: Receive, send: Send) -> None:
        await send({"type": "websocket.send", **fields})

    with RawClient(serve(on_websocket(talk)).port) as client:
        client.open_websocket()
        assert client.read_frame() == (first, payload)


def test_w7_sent_buffer_may_be_changed_afterwards(serve: Serve) -> None:
    """ASGI W7: what was sent is what it was at the time, though frames are held back while more messages wait."""

    async def talk(receive: Receive, send: Send) -> None:
        await receive()
        buffer = bytearray(b"first")
        await send({"type": "websocket.send", "bytes": buffer})
        buffer[:] = b"other"
        await send({"type": "websocket.send", "bytes": buffer})
        await receive()

    with RawClient(serve(on_websocket(talk)).port) as client:
        client.open_websocket()
        client.send(text("one") + text("two"))
        assert [client.read_frame(), client.read_frame()] == [(0x82, b"first"), (0x82, b"other")]


@pytest.mark.parametrize("count", [1000])
def test_w7_burst_is_answered_in_order(serve: Serve, count: int) -> None:
    """ASGI W7: more messages than the inbox holds, in one write; text and binary in turn."""
    payloads = [b"%d" % number for number in range(count)]
    with RawClient(serve(echo).port) as client:
        client.open_websocket()
        client.send(b"".join(frame(1 + number % 2, payload) for number, payload in enumerate(payloads)))
        for number, payload in enumerate(payloads):
            assert client.read_frame() == (0x81 + number % 2, payload)


def test_w7_app_that_sends_without_receiving_is_heard_while_messages_wait(serve: Serve) -> None:
    """ASGI W7: what is held back because messages wait leaves when the application sleeps elsewhere, too."""
    go_on = asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        await receive()
        await say(send, "one")
        await go_on.wait()
        await say(send, "two")
        await go_on.wait()

    server = serve(on_websocket(talk))
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(text("a") + text("b") + text("c"))
        assert client.read_text() == "one"
        server.call(go_on.set)
        assert client.read_text() == "two"


def test_w7_each_message_is_received_once_and_the_disconnect_by_all(serve: Serve) -> None:
    """ASGI W7, W8: tasks of one application may receive at the same time."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(read_to_disconnect(receive, seen))

    words = [str(number) for number in range(100)]
    with RawClient(serve(on_websocket(talk)).port) as client:
        client.open_websocket()
        for word in words:
            client.send(text(word))
        client.send(close(4000, "bye"))
        client.read_to_end()
    events = [seen.next() for _ in range(103)]
    assert sorted(event["text"] for event in events if "text" in event) == sorted(words)
    assert events.count(disconnected(4000, "bye")) == 3


# ---- W9, W26: send after the end


def assert_gone(error: object) -> None:
    """The server's own subclass of OSError, which is public."""
    assert type(error) is asgiws.ClientDisconnected
    assert isinstance(error, OSError)


@pytest.mark.parametrize("way", ["reset", "half-close", "Close"])
def test_w26_send_only_app_learns_at_its_next_send_that_the_client_has_left(
    serve: Serve, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    """ASGI W26: `send` on a closed connection raises a server-specific subclass of OSError, each time."""
    seen, client_left = Recorder(), asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        await client_left.wait()
        seen.put(await error_of(say(send, "x")))
        seen.put(await error_of(say(send, b"x" * 1000)))
        seen.put(await error_of(send({"type": "websocket.close"})))
        await say(send, "x")

    server = serve(on_websocket(talk))
    with RawClient(server.port) as client:
        client.open_websocket()
        if way == "reset":
            client.reset()
        elif way == "half-close":
            client.half_close()
        else:
            client.send(close())
            assert client.read_close() == (1000, "")
            client.read_to_end()
        wait_connections(server, 0)
        server.call(client_left.set)
        for _ in range(3):
            assert_gone(seen.next())
    server.stop()
    assert error_lines(caplog) == []


def read_on(client: RawClient) -> None:
    """Read until the server closes, for as long as a test waits and no longer."""
    deadline = monotonic() + PATIENCE_S
    while client.socket.recv(65536) and monotonic() < deadline:
        pass


@pytest.mark.parametrize("way", ["reset", "close", "half-close", "Close"])
@pytest.mark.parametrize("size", [10, 1000])
def test_w26_app_that_only_sends_is_stopped_when_the_client_leaves(serve: Serve, way: str, size: int) -> None:
    """ASGI W2, W26: an application that awaits nothing but `send` learns of it, though its client always had room."""
    seen, patience_is_over = Recorder(), threading.Event()

    async def talk(receive: Receive, send: Send) -> None:
        error = None
        while error is None and not patience_is_over.is_set():
            error = await error_of(say(send, "x" * size))
        seen.put(error)

    server = serve(on_websocket(talk))
    with RawClient(server.port) as client:
        client.open_websocket()
        client.read_exactly(100_000)
        client.buffer = b""
        if way == "reset":
            client.reset()
        elif way == "close":
            client.socket.close()
        else:
            client.send(close()) if way == "Close" else client.half_close()
            read_on(client)
        try:
            assert_gone(seen.next())
        finally:
            patience_is_over.set()


@pytest.mark.parametrize("way", ["reset", "half-close"])
def test_w26_app_that_is_blocked_in_send_is_released_when_the_client_leaves(serve: Serve, way: str) -> None:
    """ASGI W26: nobody waits for a client that is gone; no deadline is needed for that."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await say(send, "begun")
        seen.put(await error_of(say(send, bytes(64 * 2**20))))
        seen.put(await error_of(say(send, "x")))
        seen.put(await receive())

    server = serve(on_websocket(talk), write_timeout=0)
    with RawClient(server.port, receive_buffer=4096) as client:
        client.open_websocket()
        assert client.read_text() == "begun"
        client.read_exactly(10)
        assert seen.empty
        client.reset() if way == "reset" else client.half_close()
        assert_gone(seen.next())
        assert_gone(seen.next())
        assert seen.next() == disconnected(1006)


def test_messages_that_came_before_the_client_left_are_delivered_first(serve: Serve) -> None:
    """ASGI W8: the disconnect stands behind the messages, for an application that begins to read afterwards, too."""
    seen, client_left = Recorder(), asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        await client_left.wait()
        await read_to_disconnect(receive, seen)

    server = serve(on_websocket(talk))
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(b"".join(text(str(number)) for number in range(10)) + frame(PING))
        assert client.read_frame() == (0x8A, b"")
        client.reset()
        wait_connections(server, 0)
        server.call(client_left.set)
        assert [seen.next() for _ in range(10)] == [received(str(number)) for number in range(10)]
        assert seen.next() == disconnected(1006)
