"""HTTP requests that their application leaves: because the client has gone, or because of a fault of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import asgiws
from asgiws.server.asgi import Event, Scope
from tests.apps import Receive, Recorder, Send, refuse_lifespan
from tests.asgi.app_help import (
    assert_logged_once,
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

EVENTS = (b"content-type", b"text/event-stream")
GONE = {"type": "http.disconnect"}


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]


# ---- after the application knows that the client has left, nothing is its fault


@pytest.mark.parametrize("way", ["half-close", "reset"])
@pytest.mark.parametrize("begun", [False, True], ids=["before the response", "in the response"])
def test_app_that_returns_after_the_disconnect_is_not_to_blame(
    serve: Serve, caplog: pytest.LogCaptureFixture, way: str, begun: bool
) -> None:
    """As sse-starlette does each time that a client leaves. A client that only half-closed sees the end."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await receive()
        if begun:
            await begin_answer(send, EVENTS)
            await body(send, b"data: 1\n\n", more=True)
        seen.put("waits")
        seen.put(await receive())

    server = serve(on_request(talk))
    with RawClient(server.port) as client:
        client.send(get())
        assert seen.next() == "waits"
        if way == "reset":
            client.reset()
        else:
            client.half_close()
            assert client.read_to_end().endswith(b"data: 1\n\n\r\n" if begun else b"")
        assert seen.next() == GONE
        wait_connections(server, 0)
    server.stop()
    assert error_lines(caplog) == []


def test_app_that_begins_a_second_response_after_the_disconnect_meets_client_disconnected(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """A framework that answers its own error does so; it is no misuse when the client has left (ASGI H22)."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await receive()
        await begin_answer(send, EVENTS)
        await body(send, b"data: 1\n\n", more=True)
        await receive()
        error = await error_of(begin_answer(send, status=500))
        seen.put(type(error))
        if error is not None:
            raise error

    server = serve(on_request(talk))
    with RawClient(server.port) as client:
        client.send(get())
        client.read_until(b"data: 1\n\n")
        client.half_close()
        assert seen.next() is asgiws.ClientDisconnected
        client.read_to_end()
    server.stop()
    assert error_lines(caplog) == []


def test_what_an_app_raises_after_the_disconnect_is_no_error(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async def talk(receive: Receive, send: Send) -> None:
        await receive()
        await receive()
        raise RuntimeError("the queue is closed")

    server = serve(on_request(talk))
    with RawClient(server.port) as client:
        client.send(get())
        client.half_close()
        assert client.read_to_end() == b""
    server.stop()
    assert error_lines(caplog) == []


def test_download_whose_bytes_are_all_sent_is_complete_though_the_app_was_cancelled(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """As Quart does: it sends pieces and an empty last one, and is cancelled when the client leaves before that."""
    caplog.set_level(logging.INFO)
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await receive()
        await begin_answer(send, (b"content-length", b"220000"))
        await body(send, bytes(220_000), more=True)
        seen.put(await receive())

    server = serve(on_request(talk), access_log=True)
    with RawClient(server.port) as client:
        client.send(get("/file"))
        assert len(client.read_answer().body) == 220_000
        client.half_close()
        assert seen.next() == GONE
        assert client.read_to_end() == b""
    server.stop()
    (line,) = [line for line in lines(caplog) if "/file" in line]
    assert "200 220000 bytes" in line
    assert "incomplete" not in line


def test_event_stream_of_starlette_that_a_client_leaves_makes_one_line(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Starlette raises an exception of its own then, which is no news beside the access line."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    caplog.set_level(logging.INFO)

    async def events(request: Request) -> StreamingResponse:
        async def tick() -> AsyncIterator[bytes]:
            while True:
                yield b"data: 1\n\n"
                await asyncio.sleep(0.001)

        return StreamingResponse(tick(), media_type="text/event-stream")

    server = serve(Starlette(routes=[Route("/events", events)]), access_log=True)
    with RawClient(server.port) as client:
        client.send(get("/events"))
        client.read_until(b"data: 1\n\n")
    wait_connections(server, 0)
    server.stop()
    about = [line for line in lines(caplog) if "/events" in line or "application" in line]
    assert len(about) == 1
    assert "incomplete" in about[0]


# ---- a fault of the application


@pytest.mark.parametrize("raises", [False, True], ids=["returns", "raises"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_response_of_which_nothing_was_written_becomes_a_500(
    serve: Serve, caplog: pytest.LogCaptureFixture, raises: bool, version: str
) -> None:
    """The head waits for the first piece of the body (ASGI H13), so another can take its place."""

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send, (b"content-length", b"5"), (b"x-secret", b"of the first response"))
        if raises:
            raise KeyError("x")

    server = serve(on_request(talk))
    with RawClient(server.port) as client:
        client.send(get(version=version))
        answered = client.read_answer()
        assert (answered.status, answered.body) == (500, b"Internal Server Error")
        assert answered.header(b"x-secret") is None
        assert client.read_to_end() == b""
    server.stop()
    if raises:
        assert_logged_once(caplog, "KeyError")
    else:
        (record,) = error_lines(caplog)
        assert record.getMessage() == (
            "application returned without a whole response (its last message was http.response.start) to GET /"
        )


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([], "it sent no message"),
        (["http.response.start"], "its last message was http.response.start"),
        (["http.response.start", "http.response.body"], "its last message was http.response.body"),
    ],
    ids=["nothing", "head", "piece"],
)
def test_line_about_an_incomplete_response_names_the_last_message(
    serve: Serve, caplog: pytest.LogCaptureFixture, messages: list[str], told: str
) -> None:
    async def talk(receive: Receive, send: Send) -> None:
        for kind in messages:
            await send({"type": kind, "status": 200, "body": b"x", "more_body": True})

    server = serve(on_request(talk))
    with RawClient(server.port) as client:
        client.send(get("/page"))
        client.read_to_end()
    server.stop()
    (record,) = error_lines(caplog)
    assert record.getMessage() == f"application returned without a whole response ({told}) to GET /page"


def test_app_that_empties_its_scope_and_returns_gets_a_500(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """ASGI C1: the scope is the application's; nothing is read back from it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        scope.clear()

    server = serve(app, sendfile=True)
    with RawClient(server.port) as client:
        client.send(get())
        assert client.read_answer().status == 500
    server.stop()
    assert len(error_lines(caplog)) == 1


def test_line_names_middleware_that_drops_the_message_of_an_extension(
    serve: Serve, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """As Gradio's and Brotli's do when pathsend is offered: the head is there, and the file never comes."""
    path = tmp_path / "file"
    path.write_bytes(b"x")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)

        async def middleware(message: Event) -> None:
            if message["type"] in ("http.response.start", "http.response.body"):
                await send(message)

        await begin_answer(middleware, (b"content-length", b"1"))
        await middleware({"type": "http.response.pathsend", "path": str(path)})

    server = serve(app, sendfile=True)
    with RawClient(server.port) as client:
        client.send(get("/page"))
        assert client.read_answer().status == 500
    server.stop()
    (record,) = error_lines(caplog)
    assert record.getMessage() == (
        "application returned without a whole response (its last message was http.response.start; a middleware that "
        "does not know http.response.pathsend may have dropped it, serve without --sendfile) to GET /page"
    )


# ---- a client that does not read a file


@pytest.mark.parametrize("kind", ["pathsend", "zerocopysend"])
def test_slow_client_of_a_file_is_named(
    serve: Serve, caplog: pytest.LogCaptureFixture, tmp_path: Path, kind: str
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(64 * 2**20)

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send, (b"content-length", b"%d" % (64 * 2**20)))
        if kind == "pathsend":
            await send({"type": "http.response.pathsend", "path": str(path)})
        else:
            with path.open("rb") as opened:
                await send({"type": "http.response.zerocopysend", "file": opened})

    server = serve(on_request(talk), write_timeout=0.2)
    with RawClient(server.port, receive_buffer=4096) as client:
        host, port = client.socket.getsockname()
        client.send(get())
        wait_connections(server, 1)
        wait_connections(server, 0)
    server.stop()
    (line,) = [line for line in lines(caplog) if "slow consumer" in line]
    assert line.startswith(f"{host}:{port} ")
