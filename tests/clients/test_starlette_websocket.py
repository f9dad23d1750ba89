"""Starlette as the application over WebSocket: endpoints, denial responses, and clients that leave."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.exceptions import InvalidStatus

from tests import PATIENCE_S
from tests.apps import Recorder
from tests.clients.callers import cancelled_futures, ended, talk
from tests.conftest import Serve
from tests.raw import RawClient


class Talk(WebSocketEndpoint):
    """A WebSocketEndpoint that says how it ended; the classes below say what it takes."""

    ends = Recorder()

    async def on_connect(self, websocket: WebSocket) -> None:
        await websocket.accept(subprotocol=next(iter(websocket.scope["subprotocols"]), None))

    async def on_receive(self, websocket: WebSocket, data: Any) -> None:
        if isinstance(data, bytes):
            await websocket.send_bytes(data)
        else:
            await websocket.send_json(data)

    async def on_disconnect(self, websocket: WebSocket, close_code: int) -> None:
        self.ends.put(close_code)


def endpoint(encoding: Any) -> tuple[Starlette, Recorder]:
    """An application with one endpoint, and what says how it ended."""
    kind = type("Endpoint", (Talk,), {"encoding": encoding, "ends": Recorder()})
    return Starlette(routes=[WebSocketRoute("/talk", kind)]), kind.ends  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("encoding", "said", "heard"),
    [
        ("text", "hello", '"hello"'),
        ("bytes", b"\x00\xff", b"\x00\xff"),
        ("json", '{"a": [1, null]}', '{"a":[1,null]}'),
        ("json", b'{"a": 2}', '{"a":2}'),
        (None, "either", '"either"'),
        (None, b"or", b"or"),
    ],
)
def test_websocket_endpoint_hears_and_answers(
    serve: Serve, encoding: str | None, said: str | bytes, heard: str | bytes
) -> None:
    """WebSocketEndpoint: it looks whether the event has text or bytes."""
    app, ends = endpoint(encoding)
    with talk(serve(app), "/talk") as client:
        client.send(said)
        assert client.recv(PATIENCE_S) == heard
        client.close(3003)
    assert ends.next() == 3003


@pytest.mark.parametrize(("encoding", "said"), [("text", b"bytes"), ("bytes", "text"), ("json", "no json")])
def test_websocket_endpoint_closes_1003_on_what_it_does_not_take(
    serve: Serve, encoding: str, said: str | bytes
) -> None:
    """WebSocketEndpoint closes and then raises; the Close that it sent stands."""
    app, ends = endpoint(encoding)
    with talk(serve(app), "/talk") as client:
        client.send(said)
        assert ended(client) == (1003, "")
    assert ends.next() == 1011


def test_denial_response_is_received_whole(serve: Serve) -> None:
    """WebSocket.send_denial_response: any response of Starlette in place of the 101, streams and files too."""

    async def deny(websocket: WebSocket) -> None:
        match websocket.query_params["kind"]:
            case "json":
                response: Response = JSONResponse({"error": "no"}, 401, headers={"www-authenticate": "Bearer"})
            case "stream":
                response = StreamingResponse(iter(["one ", "two"]), 429)
            case _:
                response = FileResponse(Path(__file__), 403)
        await websocket.send_denial_response(response)

    server = serve(Starlette(routes=[WebSocketRoute("/talk", deny)]))
    answers = {}
    for kind in ("json", "stream", "file"):
        with pytest.raises(InvalidStatus) as refused, talk(server, f"/talk?kind={kind}"):
            pass
        answers[kind] = refused.value.response
    assert (answers["json"].status_code, answers["json"].body) == (401, b'{"error":"no"}')
    assert answers["json"].headers["www-authenticate"] == "Bearer"
    assert (answers["stream"].status_code, answers["stream"].body) == (429, b"one two")
    assert (answers["file"].status_code, answers["file"].body) == (403, Path(__file__).read_bytes())


def test_websocket_without_a_route_is_refused(serve: Serve) -> None:
    """Starlette closes before it accepts, which is 403."""
    with pytest.raises(InvalidStatus) as refused, talk(serve(Starlette()), "/nowhere"):
        pass
    assert refused.value.response.status_code == 403


def test_push_to_a_client_that_left_raises_websocket_disconnect_and_is_no_fault(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """ASGI send: its OSError is Starlette's WebSocketDisconnect(1006), which ends an application that only sends."""
    raised = Recorder()

    async def push(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                await websocket.send_text("news")
                await asyncio.sleep(0)
        except WebSocketDisconnect as error:
            raised.put(error.code)
            raise

    server = serve(Starlette(routes=[WebSocketRoute("/talk", push)]))
    with RawClient(server.port) as client:
        client.open_websocket("/talk")
        assert client.read_text() == "news"
    assert raised.next() == 1006
    server.stop()
    assert server.server.counters.app_errors == 0
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_receives_that_time_out_leave_nothing_behind(serve: Serve) -> None:
    """`wait_for(receive_text(), ...)` in a loop is how applications watch two things; nothing of it may add up."""

    async def watch(websocket: WebSocket) -> None:
        await websocket.accept()
        before = cancelled_futures()
        for _ in range(500):
            receiving = asyncio.create_task(websocket.receive_text())
            await asyncio.sleep(0)
            receiving.cancel()
            await asyncio.wait([receiving])
        del receiving
        await websocket.send_text(str(cancelled_futures() - before))
        await websocket.send_text(await websocket.receive_text())

    with talk(serve(Starlette(routes=[WebSocketRoute("/talk", watch)])), "/talk") as client:
        assert int(client.recv(PATIENCE_S)) < 10
        client.send("and the next one is heard")
        assert client.recv(PATIENCE_S) == "and the next one is heard"
