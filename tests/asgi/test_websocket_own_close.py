"""What an application learns of its own mistakes, what the bytes of a connection count, and large broadcasts."""

from __future__ import annotations

import asyncio
import threading

import pytest

import asgiws
from asgiws.protocol.websocket.deflate import Deflater
from tests import PATIENCE_S
from tests.apps import Receive, Recorder, Send, echo, say
from tests.asgi.app_help import error_lines, error_of, on_websocket, wait_connections
from tests.conftest import Serve
from tests.raw import RawClient, close, frame, text

PING = 9
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


def test_bytes_out_counts_every_frame(serve: Serve) -> None:
    """A message of 2 + 5 bytes, a pong of 2 + 4 and the answer to a Close of 2 + 2."""
    server = serve(echo)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(text("hello") + frame(PING, b"ping"))
        assert {client.read_frame(), client.read_frame()} == {(0x81, b"hello"), (0x8A, b"ping")}
        client.send(close(1000))
        assert client.read_close() == (1000, "")
        assert client.read_to_end() == b""
    wait_connections(server, 0)
    assert server.call(server.server.report)["counts"]["websocket_bytes"]["out"] == 7 + 6 + 4


def test_bytes_of_a_refused_close_are_in_the_access_line(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """An application that raises closes with "internal error": 2 + 2 + 14 bytes."""

    async def talk(receive: Receive, send: Send) -> None:
        raise LookupError

    caplog.set_level("INFO", "asgiws.access")
    with RawClient(serve(on_websocket(talk), access_log=True).port) as client:
        client.open_websocket()
        client.be_closed(1011, "internal error")
    line = next(record.getMessage() for record in caplog.records if "closed 1011" in record.getMessage())
    assert "out 0 messages 18 bytes" in line


@pytest.mark.parametrize(
    ("fields", "seen"),
    [
        ({}, "neither text nor bytes"),
        ({"text": None, "bytes": None}, "neither text nor bytes"),
        ({"text": "a", "bytes": b"a"}, "both text and bytes"),
    ],
)
def test_message_without_one_payload_says_what_was_seen(serve: Serve, fields: dict[str, object], seen: str) -> None:
    """ASGI W7."""
    found = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        found.put(await error_of(send({"type": "websocket.send", **fields})))

    with RawClient(serve(on_websocket(talk)).port) as client:
        client.open_websocket()
        error = found.next()
    assert isinstance(error, ValueError)
    assert str(error) == f"websocket.send with {seen}, allowed: exactly one of them"


@pytest.mark.parametrize("fields", [{"code": 1005}, {"reason": "x" * 124}])
def test_error_about_a_close_is_ascii_as_logs_are(serve: Serve, fields: dict[str, object]) -> None:
    found = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        found.put(await error_of(send({"type": "websocket.close", **fields})))

    with RawClient(serve(on_websocket(talk)).port) as client:
        client.open_websocket()
        assert "(RFC 6455 section " in str(error := found.next())
        assert str(error).isascii()


@pytest.mark.parametrize("kind", ["websocket.send", "websocket.close"])
@pytest.mark.parametrize("caught", [True, False])
def test_app_that_sends_after_its_own_close_gets_an_exception_and_a_line(
    serve: Serve, kind: str, caught: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """ASGI `send`: an error of the application's own making is never lost; one that it catches needs no line."""
    found = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await send({"type": "websocket.close", "code": 4000})
        error = await error_of(send({"type": kind, "text": "more"}))
        found.put(error)
        assert error is not None
        if not caught:
            raise error

    server = serve(on_websocket(talk))
    with RawClient(server.port) as client:
        client.open_websocket("/room")
        client.be_closed(4000, "")
    assert type(found.next()) is asgiws.ClientDisconnected
    server.stop()
    lines = [record.getMessage() for record in error_lines(caplog)]
    assert lines == ([] if caught else ["application sent a message after it had closed websocket /room"])


@pytest.mark.parametrize("count", [1, 20])
def test_large_message_of_many_broadcasts_at_once_is_compressed_once(
    serve: Serve, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each connection's task sends it before the first thread is done."""
    message, compressions, all_there = "0123456789abcdef" * 65536, [], asyncio.Event()
    senders = []
    compress = Deflater.compress_alone

    def counting(deflater: Deflater, payload: bytes) -> bytes:
        compressions.append(len(payload))
        return compress(deflater, payload)

    async def talk(receive: Receive, send: Send) -> None:
        senders.append(send)
        if len(senders) == count:
            all_there.set()
        await all_there.wait()
        await say(send, message)
        await say(send, message)

    monkeypatch.setattr(Deflater, "compress_alone", counting)
    server = serve(on_websocket(talk))
    clients = [RawClient(server.port) for _ in range(count)]
    frames = set()
    for client in clients:
        client.open_websocket("/", DEFLATE)
    for client in clients:
        with client:
            frames |= {client.read_frame(), client.read_frame()}
    assert len(frames) == 1
    assert compressions == [len(message)]
    assert server.call(server.server.report)["counts"]["compression_input_bytes"][""] == len(message)


def test_sender_that_is_cancelled_leaves_the_others_their_frame(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks send one large message; the first is cancelled while a thread compresses it."""
    message, cancelled, compress = "0123456789abcdef" * 65536, threading.Event(), Deflater.compress_alone

    def waiting(deflater: Deflater, payload: bytes) -> bytes:
        assert cancelled.wait(PATIENCE_S)
        return compress(deflater, payload)

    async def talk(receive: Receive, send: Send) -> None:
        first = asyncio.ensure_future(say(send, message))
        second = asyncio.ensure_future(say(send, message))
        await asyncio.sleep(0)
        first.cancel()
        cancelled.set()
        await second

    monkeypatch.setattr(Deflater, "compress_alone", waiting)
    with RawClient(serve(on_websocket(talk)).port) as client:
        client.open_websocket("/", DEFLATE)
        opcode, _ = client.read_frame()
        assert opcode == 0xC1
        assert client.read_close() == (1000, "")
