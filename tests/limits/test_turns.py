"""No application and no client keeps the loop from turning, and every end comes, however it is crossed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from asgiws.server.asgi import ClientDisconnected, Scope
from tests.apps import Receive, Recorder, Send, echo, refuse_lifespan
from tests.conftest import RunningServer, Serve
from tests.raw import RawClient, close, frame, handshake, text


def wait_connections(server: RunningServer, count: int) -> None:
    """Ask until so many connections are open; asking is a turn of the loop."""
    for _ in range(20_000):
        if server.call(lambda: server.server.connection_count) == count:
            return
    raise AssertionError(f"{server.server.connection_count} connections are open, not {count}")


def answers(server: RunningServer) -> bool:
    with RawClient(server.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return client.read_answer().status == 200


@pytest.mark.parametrize("kind", ["denial", "websocket", "http", "http-done"])
def test_application_that_never_pauses_does_not_stop_the_others(serve: Serve, kind: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        if scope["path"] == "/":
            await echo(scope, receive, send)
        elif kind == "denial":
            await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
            while True:
                await send({"type": "websocket.http.response.body", "body": b"x", "more_body": True})
        elif kind == "websocket":
            await send({"type": "websocket.accept"})
            while True:
                await receive()
        elif kind == "http":
            while True:
                await receive()
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b""})

    server = serve(app, graceful_timeout=0.1)
    client = RawClient(server.port)
    if kind in ("denial", "websocket"):
        client.send(handshake("/spin"))
        client.read_until(b"\r\n\r\n")
    else:
        client.send(b"GET /spin HTTP/1.1\r\nHost: x\r\n\r\n")
    client.reset()
    for _ in range(3):
        assert answers(server)


def test_idle_connection_whose_client_does_not_read_the_last_answer_ends(serve: Serve) -> None:
    """Below the high-water mark nobody waits for it; the keep-alive deadline has to end it all the same."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(4_000_000)})

    server = serve(app, keep_alive_timeout=0.2, close_timeout=0.2, write_timeout=0, write_high_water=8_000_000)
    with RawClient(server.port, receive_buffer=4096) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        client.read_exactly(10)
        wait_connections(server, 0)


def test_request_behind_an_unread_answer_is_not_begun_while_the_server_stops(serve: Serve) -> None:
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        seen.put(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(8_000_000)})

    server = serve(app)
    with RawClient(server.port, receive_buffer=4096) as client:
        client.send(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nPOST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert seen.next() == "/1"
        client.read_exactly(10)
        server.begin_stop()
        client.read_to_end()
    server.stop()
    assert seen.empty


def test_close_that_waits_in_line_is_told_also_when_send_failed_before(serve: Serve) -> None:
    seen, go_on = Recorder(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        await receive()
        await send({"type": "websocket.accept"})
        seen.put(await receive())
        await go_on.wait()
        with pytest.raises(ClientDisconnected):
            await send({"type": "websocket.send", "text": "too late"})
        seen.put(await receive())
        seen.put(await receive())

    server = serve(app, answer_timeout=20)
    client = RawClient(server.port)
    client.open_websocket()
    client.send(text("a") + text("b") + close(1000, "bye"))
    assert seen.next()["text"] == "a"
    client.reset()
    wait_connections(server, 0)
    server.call(go_on.set)
    assert seen.next()["text"] == "b"
    assert seen.next() == {"type": "websocket.disconnect", "code": 1000, "reason": "bye"}


@pytest.mark.parametrize("count", [1, 40, 500])
def test_answers_and_close_reach_a_client_that_half_closes_behind_its_close(serve: Serve, count: int) -> None:
    """RFC 6455 §5.5.1: what came before the Close is answered, then the Close."""
    server = serve(echo)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(b"".join(text(str(number)) for number in range(count)) + close(1000))
        client.half_close()
        assert [client.read_text() for _ in range(count)] == [str(number) for number in range(count)]
        assert client.read_close() == (1000, "")
        assert client.read_to_end() == b""


@pytest.mark.parametrize("way", ["reset", "close"])
def test_client_that_leaves_behind_a_full_inbox_is_found(serve: Serve, way: str) -> None:
    """Nothing is read from it, so only a write can tell; the ping is one."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.Event().wait()

    server = serve(app, ping_interval=0.1, ping_timeout=0.1, graceful_timeout=0.1)
    client = RawClient(server.port)
    client.open_websocket()
    for _ in range(3):
        client.send(text("x") * 40)
        server.call(lambda: None)
    client.reset() if way == "reset" else client.socket.close()
    wait_connections(server, 0)


def test_continue_is_sent_though_the_application_has_started_its_response(serve: Serve) -> None:
    """RFC 9110 §10.1.1: no byte of the response has left, so the client still waits for 100."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        event = await receive()
        await send({"type": "http.response.body", "body": event["body"]})

    server = serve(app)
    with RawClient(server.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert client.read_answer().status == 100
        client.send(b"body")
        assert client.read_answer().body == b"body"


def test_file_that_is_sent_while_the_request_turns_out_bad_ends_as_a_disconnect(serve: Serve, tmp_path: Path) -> None:
    seen = Recorder()
    path = tmp_path / "file"
    path.write_bytes(os.urandom(8_000_000))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)

        async def read() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        reading = asyncio.ensure_future(read())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            await send({"type": "http.response.pathsend", "path": str(path)})
        except BaseException as error:
            seen.put(type(error).__name__)
            raise
        else:
            seen.put("sent")
        finally:
            reading.cancel()

    server = serve(app)
    with RawClient(server.port, receive_buffer=4096) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.read_exactly(100)
        client.send(b"zz\r\n")
        client.read_to_end()
    assert seen.next() in ("ClientDisconnected", "sent")
    assert server.call(lambda: server.server.counters.app_errors) == 0


def test_bytes_that_are_discarded_behind_our_close_do_not_hold_the_loop(serve: Serve) -> None:
    """Counted in turns: another connection's handshake is answered between the pieces that are thrown away."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        if scope["path"] == "/":
            await echo(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})

    server = serve(app)
    with RawClient(server.port) as client:
        client.open_websocket("/closing")
        assert client.read_close() == (1000, "")
        client.send(frame(2, bytes(900_000)) * 4 + text("x") * 5000)
        assert answers(server)
        client.send(close(1000))
        assert client.read_to_end() == b""
