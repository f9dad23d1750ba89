"""Differences that deploy/from-uvicorn.md lists beside those of `test_same_as_uvicorn.py`, shown on both servers."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from asgiws.server.asgi import Scope
from tests.apps import Receive, Send
from tests.clients.cases import request
from tests.clients.uvicorn_server import serve_with_uvicorn
from tests.conftest import Serve
from tests.raw import KEY, Answer, RawClient
from tests.server_process import ServerProcess

OURS, THEIRS = "asgiws", "uvicorn"


@pytest.fixture
def processes() -> Iterator[list[ServerProcess]]:
    """Processes that are killed when the test has ended."""
    running: list[ServerProcess] = []
    yield running
    for process in running:
        process.kill()


async def client_of(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the host of the client."""
    if scope["type"] == "lifespan":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": scope["client"][0].encode()})


def answers(serve: Serve, data: bytes, options: dict[str, Any], their_options: dict[str, Any]) -> list[Answer]:
    """Send the same bytes to both; return our answer and theirs."""
    found = []
    with ExitStack() as ends:
        theirs = ends.enter_context(serve_with_uvicorn(client_of, **their_options))
        for port in (serve(client_of, **options).port, theirs):
            with RawClient(port) as client:
                client.send(data)
                found.append(client.read_answer())
    return found


def test_limit_concurrency_of_one_admits_one(serve: Serve) -> None:
    ours, theirs = answers(serve, request("GET /"), {"max_connections": 1}, {"limit_concurrency": 1})
    assert (ours.status, theirs.status) == (200, 503)


def test_empty_element_of_a_forwarded_list_is_skipped(serve: Serve) -> None:
    options = {"forwarded_allow_ips": "127.0.0.1"}
    ours, theirs = answers(serve, request("GET /", "X-Forwarded-For: 192.0.2.1, ,"), options, options)
    assert (ours.body, theirs.body) == (b"192.0.2.1", b"127.0.0.1")


def test_other_version_is_told_which_one_is_spoken(serve: Serve) -> None:
    """RFC 6455 §4.4; without a key it is no handshake, and both say so."""
    version_11 = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 11")
    for key, our_status, our_version in (((), 400, None), ((f"Sec-WebSocket-Key: {KEY.decode()}",), 426, b"13")):
        ours, theirs = answers(serve, request("GET /", *version_11, *key), {}, {})
        assert (ours.status, ours.header(b"sec-websocket-version")) == (our_status, our_version)
        assert (theirs.status, theirs.header(b"sec-websocket-version")) == (400, None)


# ---- processes

PROGRAM = """
import sys

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        for _ in range(2):
            event = await receive()
            await send({"type": event["type"] + ".complete"})

if sys.argv[1] == "asgiws":
    import asgiws
    asgiws.run(app, port=0, log_level="info")
else:
    import uvicorn
    uvicorn.run(app, port=0)
print("after run", flush=True)
"""

STARTING = """
import asyncio

async def app(scope, receive, send):
    await receive()
    print("starting", flush=True)
    await asyncio.sleep(1)
    print("started", flush=True)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
"""

RETURNING = """
async def app(scope, receive, send):
    await receive()
"""


def run(processes: list[ServerProcess], *arguments: str, **more: Any) -> ServerProcess:
    process = ServerProcess([sys.executable, *arguments], **more)
    processes.append(process)
    return process


@pytest.mark.parametrize(("server", "code", "goes_on"), [(OURS, 0, True), (THEIRS, -signal.SIGTERM, False)])
def test_signal_is_not_raised_again(processes: list[ServerProcess], server: str, code: int, goes_on: bool) -> None:
    process = run(processes, "-c", PROGRAM, server)
    process.wait_stderr("(?i)listening on|running on")
    process.signal(signal.SIGTERM)
    assert process.wait() == code
    assert ("after run" in process.rest_of_stdout()) is goes_on


@pytest.mark.parametrize(("server", "finishes"), [(OURS, False), (THEIRS, True)])
def test_stop_cancels_a_startup(processes: list[ServerProcess], server: str, finishes: bool, tmp_path: Any) -> None:
    (tmp_path / "app.py").write_text(STARTING)
    process = run(processes, "-m", server, "app:app", "--port", "0", "--app-dir", str(tmp_path))
    process.wait_stdout("starting")
    process.signal(signal.SIGTERM)
    process.wait()
    assert ("started" in process.rest_of_stdout()) is finishes


@pytest.mark.parametrize(("server", "starts"), [(OURS, False), (THEIRS, True)])
def test_lifespan_on_needs_an_answer(processes: list[ServerProcess], server: str, starts: bool, tmp_path: Any) -> None:
    (tmp_path / "app.py").write_text(RETURNING)
    options = ("--port", "0", "--lifespan", "on", "--app-dir", str(tmp_path))
    process = run(processes, "-m", server, "app:app", *options)
    if starts:
        process.wait_stderr("running on")
    else:
        assert process.wait() == 3
        assert "listening on" not in "\n".join(process.rest_of_stderr())
