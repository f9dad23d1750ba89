"""ASGI HTTP 2.5: clients that leave, as an application learns of them (checklist 4.2, H16 and H22)."""

from __future__ import annotations

import asyncio
import threading

import pytest

import asgiws
from asgiws.server.asgi import Scope
from tests.apps import Receive, Recorder, Send, refuse_lifespan
from tests.asgi.app_help import (
    POST,
    answer,
    begin_answer,
    body,
    error_lines,
    error_of,
    get,
    on_request,
    wait_connections,
)
from tests.conftest import Serve
from tests.raw import RawClient

GONE = {"type": "http.disconnect"}


# ---- http.disconnect


def test_h16_receive_after_the_response_gives_the_disconnect_again_and_again(serve: Serve) -> None:
    """ASGI H16: `http.disconnect` if `receive` is called after the response, though the client is there."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await answer(send, b"x")
        for _ in range(3):
            seen.put(await receive())

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(POST + get())
        client.read_answer()
        client.read_answer()
        assert [seen.next() for _ in range(6)] == [GONE] * 6


def test_h16_receive_waits_while_the_client_is_there_and_the_response_incomplete(serve: Serve) -> None:
    """ASGI H16: neither the end of the body nor the next request is a disconnect; the end of the response is one."""
    seen, go_on = Recorder(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        if scope["path"] != "/waiting":
            await answer(send)
            return
        assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
        watcher = asyncio.ensure_future(receive())
        await begin_answer(send)
        await body(send, b"begun", more=True)
        await go_on.wait()
        seen.put(watcher.done())
        await body(send)
        seen.put(await watcher)

    server = serve(app)
    with RawClient(server.port) as client, RawClient(server.port) as other:
        client.send(get("/waiting"))
        client.read_until(b"begun\r\n")
        client.send(get("/behind"))
        other.send(get("/other"))
        other.read_answer()
        server.call(go_on.set)
        assert seen.next() is False
        assert seen.next() == GONE
        assert client.read_exactly(5) == b"0\r\n\r\n"
        assert client.read_answer().status == 200


@pytest.mark.parametrize("way", ["reset", "close", "half-close"])
@pytest.mark.parametrize("body_is_whole", [True, False], ids=["whole body", "half a body"])
def test_h16_client_that_leaves_gives_the_disconnect(serve: Serve, way: str, body_is_whole: bool) -> None:
    """ASGI H16: `http.disconnect` when the connection closes, behind what came of the body."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        for _ in range(3):
            seen.put(await receive())

    server = serve(on_request(talk))
    with RawClient(server.port) as client:
        client.send(POST if body_is_whole else POST[:-2])
        expected = b"body" if body_is_whole else b"bo"
        assert seen.next() == {"type": "http.request", "body": expected, "more_body": not body_is_whole}
        if way == "reset":
            client.reset()
        elif way == "close":
            client.socket.close()
        else:
            client.half_close()
        assert [seen.next(), seen.next()] == [GONE, GONE]


def test_h16_body_that_came_before_the_client_left_is_delivered_first(serve: Serve) -> None:
    """ASGI H16: the disconnect stands behind the body, also for an application that begins to read afterwards."""
    seen, client_left = Recorder(), asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        seen.put("called")
        await client_left.wait()
        seen.put(await receive())
        seen.put(await receive())

    server = serve(on_request(talk))
    with RawClient(server.port) as client:
        client.send(POST)
        assert seen.next() == "called"
        client.reset()
        wait_connections(server, 0)
        server.call(client_left.set)
        assert seen.next() == {"type": "http.request", "body": b"body", "more_body": False}
        assert seen.next() == GONE


def test_client_that_half_closes_is_answered(serve: Serve) -> None:
    """RFC 9112 §9.6: a client that has sent all may close its side, and still reads."""
    half_closed = asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        await receive()
        assert await receive() == GONE
        await begin_answer(send)
        await body(send, b"one ", more=True)
        await half_closed.wait()
        await body(send, b"two")

    server = serve(on_request(talk), keep_alive_timeout=0)
    with RawClient(server.port) as client:
        client.send(get())
        client.half_close()
        client.read_until(b"one \r\n")
        server.call(half_closed.set)
        assert client.read_to_end() == b"3\r\ntwo\r\n0\r\n\r\n"


# ---- send after the client has left


def assert_gone(error: object) -> None:
    """The server's own subclass of OSError (ASGI H22), which is public."""
    assert type(error) is asgiws.ClientDisconnected
    assert isinstance(error, OSError)


@pytest.mark.parametrize("begun", [False, True], ids=["before the response", "in the response"])
def test_h22_send_only_app_learns_at_its_next_send_that_the_client_has_left(
    serve: Serve, caplog: pytest.LogCaptureFixture, begun: bool
) -> None:
    """ASGI H22: `send` on a closed connection raises a server-specific subclass of OSError, each time."""
    seen, client_left = Recorder(), asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        if begun:
            await begin_answer(send)
            await body(send, b"begun", more=True)
        seen.put("waits")
        await client_left.wait()
        if not begun:
            seen.put(await error_of(begin_answer(send)))
        for _ in range(3):
            seen.put(await error_of(body(send, b"x", more=True)))
        await body(send)

    server = serve(on_request(talk))
    with RawClient(server.port) as client:
        client.send(get())
        assert seen.next() == "waits"
        client.reset()
    wait_connections(server, 0)
    server.call(client_left.set)
    for _ in range(3 if begun else 4):
        assert_gone(seen.next())
    server.stop()
    assert error_lines(caplog) == []


@pytest.mark.parametrize("way", ["reset", "close"])
@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_h22_app_that_only_sends_is_stopped_when_the_client_leaves(serve: Serve, way: str, framing: str) -> None:
    """ASGI H22: an application that awaits nothing but `send` learns of it, though its client always had room."""
    seen, patience_is_over = Recorder(), threading.Event()

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send, *[(b"content-length", b"%d" % 2**50)] if framing == "length" else [])
        error = None
        while error is None and not patience_is_over.is_set():
            error = await error_of(body(send, b"x" * 100, more=True))
        seen.put(error)

    server = serve(on_request(talk))
    with RawClient(server.port) as client:
        client.send(get())
        client.read_exactly(100_000)
        if way == "reset":
            client.reset()
        else:
            client.socket.close()
        try:
            assert_gone(seen.next())
        finally:
            patience_is_over.set()


def test_h22_app_that_is_blocked_in_send_is_released_when_the_client_resets(serve: Serve) -> None:
    """ASGI H22: nobody waits for a client that is gone; no deadline is needed for that."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send)
        seen.put(await error_of(body(send, bytes(64 * 2**20), more=True)))
        seen.put(await error_of(body(send, b"x", more=True)))

    server = serve(on_request(talk), write_timeout=0)
    with RawClient(server.port, receive_buffer=4096) as client:
        client.send(get())
        client.read_until(b"\r\n\r\n")
        assert seen.empty
        client.reset()
        assert_gone(seen.next())
        assert_gone(seen.next())
