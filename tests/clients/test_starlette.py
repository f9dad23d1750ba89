"""Starlette as the application over HTTP: streams, files, middleware, background tasks, disconnects, lifespan."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask, BackgroundTasks
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from asgiws.server.asgi import ASGIApp, Scope
from tests import PATIENCE_S
from tests.apps import Receive, Recorder, Send
from tests.clients.callers import ask, cancelled_futures, talk
from tests.conftest import Serve
from tests.raw import RawClient

MIB = 1024 * 1024
Next = Callable[[Request], Awaitable[Response]]


def routes(*handlers: Callable[[Request], Awaitable[Response]]) -> list[Route]:
    """Each handler below its own name."""
    return [Route(f"/{handler.__name__}", handler, methods=["GET", "HEAD", "POST"]) for handler in handlers]


# ---- streams


async def numbers(request: Request) -> Response:
    async def generate() -> AsyncIterator[str]:
        for number in range(100):
            yield f"{number}\n"
            await asyncio.sleep(0)

    return StreamingResponse(generate(), media_type="text/plain")


async def threaded(request: Request) -> Response:
    def generate() -> Iterator[bytes]:
        for number in range(20):
            yield b"%d" % number * 1000

    return StreamingResponse(generate(), status_code=203)


def test_streaming_response_is_received_piece_by_piece(serve: Serve) -> None:
    """StreamingResponse of an async generator: without a length, in chunks."""
    with ask(serve(Starlette(routes=routes(numbers)))) as client:
        answer = client.get("/numbers")
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text.split() == [str(number) for number in range(100)]


def test_streaming_response_of_a_thread_is_received(serve: Serve) -> None:
    """StreamingResponse of a plain generator, which Starlette runs in a thread."""
    with ask(serve(Starlette(routes=routes(threaded)))) as client:
        answer = client.get("/threaded")
    assert answer.status_code == 203
    assert answer.content == b"".join(b"%d" % number * 1000 for number in range(20))


async def endless(request: Request) -> Response:
    async def generate() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1024
            await asyncio.sleep(0)

    return StreamingResponse(generate())


class Watched:
    """Around an application: says when it has ended an HTTP request, however it did."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.ended = Recorder()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        finally:
            self.ended.put(scope["type"])


@pytest.mark.parametrize("middleware", [False, True])
def test_stream_ends_when_the_client_leaves_and_that_is_no_fault(
    serve: Serve, caplog: pytest.LogCaptureFixture, middleware: bool
) -> None:
    """ASGI send raises an OSError then, and what Starlette makes of it is no error of the application either."""
    wrapped = [Middleware(BaseHTTPMiddleware, dispatch=add_header)] if middleware else []
    app = Watched(Starlette(routes=routes(endless), middleware=wrapped))
    server = serve(app)
    with ask(server) as client:
        with client.stream("GET", "/endless") as answer:
            assert next(answer.iter_bytes())
        assert app.ended.next() == "http"
    server.stop()
    assert server.server.counters.app_errors == 0
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# ---- files


@pytest.fixture(scope="module")
def big_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "big.bin"
    path.write_bytes(os.urandom(5 * MIB + 7))
    return path


@pytest.fixture
def files(serve: Serve, big_file: Path) -> Iterator[httpx.Client]:
    async def big(request: Request) -> Response:
        return FileResponse(big_file, filename="größe.bin")

    async def small(request: Request) -> Response:
        return FileResponse(Path(__file__), media_type="text/x-python", headers={"x-own": "yes"})

    async def gone(request: Request) -> Response:
        return FileResponse(big_file.with_name("gone"))

    with ask(serve(Starlette(routes=routes(big, small, gone)), sendfile=True)) as client:
        yield client


def test_file_response_is_received_whole(files: httpx.Client, big_file: Path) -> None:
    """FileResponse: Starlette hands the path to the server, which has `http.response.pathsend`."""
    answer = files.get("/big")
    assert answer.headers["content-length"] == str(5 * MIB + 7)
    assert "gr%C3%B6%C3%9Fe.bin" in answer.headers["content-disposition"]
    assert hashlib.sha256(answer.content).digest() == hashlib.sha256(big_file.read_bytes()).digest()


def test_connection_is_good_after_files(files: httpx.Client) -> None:
    """RFC 9112 §9.3: what comes behind a file is the next answer."""
    text = Path(__file__).read_text()
    for _ in range(3):
        assert files.get("/small").text == text
        assert len(files.get("/big").content) == 5 * MIB + 7


def test_head_of_a_file_has_its_fields(files: httpx.Client) -> None:
    """RFC 9110 §9.3.2."""
    get, head = files.get("/small"), files.head("/small")
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "content-type", "etag", "last-modified", "x-own"):
        assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize(
    ("wanted", "start", "end"), [("0-0", 0, 1), ("100-200099", 100, 200_100), ("-7", 5 * MIB, 5 * MIB + 7)]
)
def test_range_of_a_file_is_received(files: httpx.Client, big_file: Path, wanted: str, start: int, end: int) -> None:
    """RFC 9110 §14.2: Starlette cuts, the server sends what it got."""
    answer = files.get("/big", headers={"Range": f"bytes={wanted}"})
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{5 * MIB + 7}"
    assert answer.content == big_file.read_bytes()[start:end]


def test_file_that_is_not_there_is_500(files: httpx.Client) -> None:
    """FileResponse raises before it starts, so the answer can still be an error."""
    assert files.get("/gone").status_code == 500


# ---- middleware and background


async def add_header(request: Request, call_next: Next) -> Response:
    response = await call_next(request)
    response.headers["x-middleware"] = request.url.path
    return response


async def body_size(request: Request) -> Response:
    size = 0
    async for piece in request.stream():
        size += len(piece)
    return PlainTextResponse(str(size))


def test_base_http_middleware_passes_requests_bodies_and_streams(serve: Serve) -> None:
    """BaseHTTPMiddleware runs the application in a task group and both sides of it talk to the server."""
    app = Starlette(
        routes=routes(numbers, body_size), middleware=[Middleware(BaseHTTPMiddleware, dispatch=add_header)]
    )  # fmt: skip
    with ask(serve(app)) as client:
        for _ in range(3):
            answer = client.get("/numbers")
            assert answer.headers["x-middleware"] == "/numbers"
            assert len(answer.text.split()) == 100
            assert client.post("/body_size", content=iter([b"x" * 100_000] * 10)).text == "1000000"
            assert client.get("/nowhere").headers["x-middleware"] == "/nowhere"


@pytest.mark.parametrize("middleware", [False, True])
def test_background_tasks_run_behind_the_response_and_hold_up_nobody(serve: Serve, middleware: bool) -> None:
    """BackgroundTask: the next request on the connection is answered while the first one's task still runs."""
    done = Recorder()
    release = threading.Event()

    async def task(name: str) -> None:
        await asyncio.to_thread(release.wait, PATIENCE_S)
        done.put(name)

    async def start(request: Request) -> Response:
        tasks = BackgroundTasks([BackgroundTask(task, "first"), BackgroundTask(task, "second")])
        return PlainTextResponse("started", background=tasks)

    async def port(request: Request) -> Response:
        assert request.client is not None
        return PlainTextResponse(str(request.client.port))

    wrapped = [Middleware(BaseHTTPMiddleware, dispatch=add_header)] if middleware else []
    with ask(serve(Starlette(routes=routes(start, port), middleware=wrapped))) as client:
        before = client.get("/port").text
        assert client.get("/start").text == "started"
        assert client.get("/port").text == before
        assert done.empty
        release.set()
        assert [done.next(), done.next()] == ["first", "second"]


# ---- disconnects

GET = b"GET /watch HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_is_disconnected_turns_true_when_the_client_left(serve: Serve) -> None:
    """Request.is_disconnected cancels a receive each time; it is False until the client is gone."""
    seen = Recorder()

    async def watch(request: Request) -> Response:
        seen.put(await request.is_disconnected())
        while not await request.is_disconnected():  # it gives way to the loop by itself
            pass
        seen.put(True)
        return PlainTextResponse("nobody reads this")

    with RawClient(serve(Starlette(routes=routes(watch))).port) as client:
        client.send(GET)
        assert seen.next() is False
    assert seen.next() is True


def test_asking_is_disconnected_again_and_again_leaves_nothing_behind(serve: Serve) -> None:
    """A stream that asks before each piece may live for hours, so no receive that was cancelled may be kept."""

    async def watch(request: Request) -> Response:
        assert not await request.is_disconnected()
        before = cancelled_futures()
        for _ in range(500):
            assert not await request.is_disconnected()
        return PlainTextResponse(str(cancelled_futures() - before))

    with ask(serve(Starlette(routes=routes(watch)))) as client:
        assert int(client.get("/watch").text) < 10


def test_body_timeout_counts_only_while_the_application_waits_for_the_body(serve: Serve) -> None:
    """The deadline is for a client that keeps an application waiting; one that gave up waiting is not kept."""
    begun, release = Recorder(), threading.Event()

    async def watch(request: Request) -> Response:
        assert not await request.is_disconnected()  # takes a piece of the body and then waits, and is cancelled
        assert not await request.is_disconnected()
        begun.put("busy")
        await asyncio.to_thread(release.wait, PATIENCE_S)
        return PlainTextResponse("done")

    server = serve(Starlette(routes=routes(watch)), body_timeout=0.1, head_timeout=0.5)
    with RawClient(server.port) as client, RawClient(server.port) as idle:
        client.send(b"POST /watch HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf")
        assert begun.next() == "busy"
        assert idle.read_to_end() == b""  # the server's own head_timeout has passed, five times the other
        release.set()
        answer = client.read_answer()
        assert (answer.status, answer.body) == (200, b"done")


def test_body_that_breaks_off_raises_client_disconnect(serve: Serve) -> None:
    """Request.stream raises when http.disconnect comes in place of the rest."""
    seen = Recorder()

    async def watch(request: Request) -> Response:
        try:
            async for piece in request.stream():
                seen.put(piece)
        except ClientDisconnect:
            seen.put("disconnect")
        return PlainTextResponse("nobody reads this")

    with RawClient(serve(Starlette(routes=routes(watch))).port) as client:
        client.send(b"POST /watch HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf")
        assert seen.next() == b"half"
    assert seen.next() == "disconnect"


# ---- lifespan


def test_lifespan_state_is_in_every_request_and_websocket(serve: Serve) -> None:
    """ASGI lifespan state: the same object for all, and a copy of the dict for each."""
    events = Recorder()
    pool = object()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        events.put("startup")
        yield {"pool": pool}
        events.put("shutdown")

    async def look(request: Request) -> Response:
        known = request.state.pool is pool
        clean = not hasattr(request.state, "mine")
        request.state.mine = True
        return JSONResponse([known, clean])

    async def look_too(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_json([websocket.state.pool is pool, not hasattr(websocket.state, "mine")])
        await websocket.close()

    server = serve(Starlette(routes=[*routes(look), WebSocketRoute("/talk", look_too)], lifespan=lifespan))
    assert events.next() == "startup"
    with ask(server) as client, talk(server, "/talk") as socket:
        assert [client.get("/look").json() for _ in range(2)] == [[True, True]] * 2
        assert json.loads(socket.recv(PATIENCE_S)) == [True, True]
    assert events.empty
    server.stop()
    assert events.next() == "shutdown"
