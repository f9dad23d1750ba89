"""FastAPI as the application: its routes, dependencies, bodies, handlers and sub-applications, over both protocols."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests import PATIENCE_S
from tests.clients.callers import ask, ended, talk
from tests.clients.fastapi_app import FILE, make_app
from tests.conftest import RunningServer, Serve
from tests.raw import RawClient


@pytest.fixture
def app() -> FastAPI:
    return make_app()


@pytest.fixture
def server(serve: Serve, app: FastAPI) -> RunningServer:
    return serve(app)


@pytest.fixture
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with ask(server) as client:
        yield client


def hear(client: ClientConnection) -> object:
    return json.loads(client.recv(PATIENCE_S))


def refusal(server: RunningServer, path: str) -> tuple[int, bytes]:
    """Give status and body of a handshake that is refused."""
    with pytest.raises(InvalidStatus) as refused, talk(server, path):
        pass
    return refused.value.response.status_code, bytes(refused.value.response.body or b"")


# ---- HTTP


def test_path_and_query_parameters_are_converted(http: httpx.Client) -> None:
    """Path and query, decoded from the scope."""
    answer = http.get("/items/3", params={"q": "ä b&c", "limit": 5})
    assert answer.json() == {"item_id": 3, "q": "ä b&c", "limit": 5}


@pytest.mark.parametrize(
    ("path", "where"), [("/items/three", ["path", "item_id"]), ("/items/3?limit=101", ["query", "limit"])]
)
def test_parameter_that_is_not_valid_is_422(http: httpx.Client, path: str, where: list[str]) -> None:
    """Validation: the answer names the parameter."""
    answer = http.get(path)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == where


def test_pydantic_body_is_read_and_answered(http: httpx.Client) -> None:
    """A body with its length, then one in chunks, then two that are not valid, on one connection."""
    item = {"name": "cup", "price": 1.5, "tags": ["a", "ü"]}
    answer = http.post("/items", json=item)
    assert (answer.status_code, answer.json(), answer.headers["location"]) == (201, item, "/items/cup")

    pieces = iter([b'{"name": "cup",', b'"price": ', b"2}"])
    answer = http.post("/items", content=pieces, headers={"content-type": "application/json"})
    assert answer.json() == {"name": "cup", "price": 2.0, "tags": []}

    assert http.post("/items", json={"name": "", "price": "x"}).status_code == 422
    broken = http.post("/items", content=b"{", headers={"content-type": "application/json"})
    assert broken.json()["detail"][0]["type"] == "json_invalid"


def test_headers_and_cookies_are_read_and_set(http: httpx.Client) -> None:
    """Header with several values, Cookie in and out."""
    http.cookies.set("session", "abc")
    answer = http.get("/headers", headers=[("X-Many", "1"), ("X-Many", "2"), ("User-Agent", "tester/1")])
    assert answer.json() == {"user_agent": "tester/1", "x_many": ["1", "2"], "session": "abc"}

    cookies = http.get("/cookies").headers.get_list("set-cookie")
    assert [cookie.partition("=")[0] for cookie in cookies] == ["a", "b", "c"]


def test_dependency_that_raises_refuses_the_request(http: httpx.Client) -> None:
    """HTTPException out of a dependency, with a header."""
    refused = http.get("/token")
    assert (refused.status_code, refused.json()) == (401, {"detail": "no token"})
    assert refused.headers["www-authenticate"] == "Token"
    assert http.get("/token", headers={"X-Token": "secret"}).json() == "secret"


@pytest.mark.parametrize(("query", "status"), [("", 200), ("?fail=true", 409)])
def test_dependency_with_yield_is_put_away(http: httpx.Client, app: FastAPI, query: str, status: int) -> None:
    """What was opened for a request is closed behind it, also when the handler raises."""
    assert http.get(f"/session{query}").status_code == status
    assert [app.state.done.next(), app.state.done.next()] == ["opened", "put away"]


def test_upload_is_read_in_pieces(http: httpx.Client) -> None:
    """Request.stream of five megabytes in chunks."""
    pieces = [bytes([number]) * 100_000 for number in range(50)]
    answer = http.put("/upload", content=iter(pieces))
    assert answer.json() == {"size": 5_000_000, "sha256": hashlib.sha256(b"".join(pieces)).hexdigest()}


def test_streams_and_files_are_received(http: httpx.Client) -> None:
    """An event stream, a file-like object and a file, on one connection."""
    events = http.get("/stream")
    assert events.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert events.text.split("\n\n")[:-1] == [f"data: {number}" for number in range(50)]
    assert http.get("/file-like").content == b"line\n" * 1000
    answer = http.get("/file")
    assert answer.content == FILE.read_bytes()
    assert answer.headers["content-disposition"] == 'attachment; filename="app.py"'


def test_answers_without_a_body_have_none(http: httpx.Client) -> None:
    """RFC 9110 §15.3.5 and §15.4.5."""
    assert (http.get("/empty").status_code, http.get("/empty").content) == (204, b"")
    assert (http.get("/unchanged").status_code, http.get("/unchanged").headers["etag"]) == (304, '"1"')


def test_redirect_leads_to_the_answer(http: httpx.Client) -> None:
    """RFC 9110 §15.4.4: a Location with characters that Starlette escapes, and the slash that it takes off."""
    assert http.get("/elsewhere", follow_redirects=True).json() == {"item_id": 1, "q": "ü", "limit": 10}
    assert http.get("/items/2/", follow_redirects=True).json()["item_id"] == 2


def test_exceptions_are_answered_and_the_connection_stays(http: httpx.Client) -> None:
    """A handler of the application, the framework's 500, a 404 and a 405."""
    handled = http.get("/teapot")
    assert (handled.status_code, handled.json()) == (418, {"teapot": "short and stout"})
    assert (http.get("/fails").status_code, http.get("/fails").text) == (500, "Internal Server Error")
    assert http.get("/nowhere").json() == {"detail": "Not Found"}
    assert http.delete("/items/3").headers["allow"] == "GET"


def test_stream_that_raises_in_the_middle_is_not_taken_for_a_whole_answer(http: httpx.Client) -> None:
    """RFC 9112 §8: without the last chunk the body is incomplete, and the client knows."""
    with http.stream("GET", "/fails-late") as answer, pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        answer.read()
    assert http.get("/items/3").status_code == 200


def test_background_task_runs(http: httpx.Client, app: FastAPI) -> None:
    """BackgroundTasks of a handler in a thread."""
    assert http.get("/background").json() == {"started": True}
    assert app.state.done.next() == "background task"


def test_documentation_is_served(http: httpx.Client) -> None:
    """The application's own pages: the schema has every route."""
    assert "/items/{item_id}" in http.get("/openapi.json").json()["paths"]
    assert "swagger" in http.get("/docs").text


def test_mounted_application_has_its_own_root_path(http: httpx.Client, server: RunningServer) -> None:
    """ASGI root_path: what is mounted is told where, over both protocols."""
    assert http.get("/sub/where").json() == {"root_path": "/sub", "url": "/sub/where"}
    assert http.get("/sub/nowhere").status_code == 404
    with talk(server, "/sub/ws/Ada") as client:
        assert hear(client) == {"name": "Ada", "root_path": "/sub", "url": "/sub/ws/Ada"}


def test_root_path_of_the_server_is_in_links_and_not_in_routes(serve: Serve, app: FastAPI) -> None:
    """The option root_path: a proxy has taken the prefix off, and what is made for clients has it again."""
    server = serve(app, root_path="/api")
    with ask(server) as http:
        known = http.get("/where/x").json()
        assert (known["rest"], known["root_path"]) == ("x", "/api")
        assert known["link"] == known["url"].replace("where/x", "items/7") == "/api/items/7"
        assert http.get("/sub/where").json()["root_path"] == "/api/sub"
        assert http.get("/openapi.json").json()["servers"] == [{"url": "/api"}]
    with talk(server, "/ws/rooms/red") as client:
        assert client.recv(PATIENCE_S) == "nobody in red"


# ---- WebSocket


def test_websocket_parameters_are_read(server: RunningServer) -> None:
    """Path, query, header and cookie of a handshake."""
    with talk(server, "/ws/rooms/red%20room?name=Ada") as client:
        assert client.recv(PATIENCE_S) == "Ada in red room"
        client.send("hello")
        assert client.recv(PATIENCE_S) == "Ada: hello"
    headers = {"X-Token": "secret", "Cookie": "session=abc"}
    with connect(f"{server.ws_url}/ws/headers", additional_headers=headers, proxy=None) as client:
        assert hear(client) == {"x_token": "secret", "session": "abc"}
        assert client.response is not None
        assert client.response.headers["x-seen"] == "secret"
        assert client.response.headers["set-cookie"] == "seen=1"
        assert ended(client) == (1000, "done")


@pytest.mark.parametrize("path", ["/ws/secure", "/ws/items/five", "/ws/refuse", "/ws/nowhere", "/items/3"])
def test_websocket_that_is_refused_before_it_is_accepted_is_403(server: RunningServer, path: str) -> None:
    """A dependency that raises WebSocketException, a bad parameter, a close, no such route, a route of HTTP."""
    assert refusal(server, path) == (403, b"")


def test_websocket_dependency_that_is_content_lets_the_handler_run(server: RunningServer) -> None:
    """The dependency gives the token of the query."""
    with talk(server, "/ws/secure?token=abc") as client:
        assert client.recv(PATIENCE_S) == "abc"


def test_denial_response_has_status_headers_and_body(server: RunningServer) -> None:
    """ASGI websocket.http.response."""
    assert refusal(server, "/ws/deny") == (402, b'{"detail":"pay first"}')


@pytest.mark.parametrize(
    ("path", "said", "end"),
    [
        ("/ws/late", "anything", (4001, "not like this")),
        ("/ws/teapot", None, (4018, "short and stout")),
        ("/ws/close?code=3000&reason=own", None, (3000, "own")),
        ("/ws/close", None, (1000, "")),
        ("/ws/fails", None, (1011, "internal error")),
        ("/ws/returns", None, (1000, "")),
        ("/ws/json", "no json", (1011, "internal error")),
        ("/ws/push", None, (1001, "no more")),
    ],
)
def test_websocket_ends_with_the_code_of_its_cause(
    server: RunningServer, path: str, said: str | None, end: tuple[int, str]
) -> None:
    """WebSocketException, a handler of the application, close(), an exception, a return."""
    with talk(server, path) as client:
        if said is not None:
            client.send(said)
        assert ended(client) == end


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (1001, "leaving"), (1011, ""), (3000, "own"), (4999, "ü" * 61)]
)
def test_websocket_disconnect_has_code_and_reason_of_the_client(
    server: RunningServer, app: FastAPI, code: int, reason: str
) -> None:
    """WebSocketDisconnect: what the client closed with."""
    with talk(server, "/ws/echo") as client:
        client.send("a")
        assert client.recv(PATIENCE_S) == "a"
        client.close(code, reason)
    assert app.state.ends.next() == (code, reason)


def test_websocket_disconnect_of_a_lost_client_is_1006_and_of_the_server_1012(
    server: RunningServer, app: FastAPI
) -> None:
    """WebSocketDisconnect without a Close of the client."""
    with RawClient(server.port) as client:
        client.open_websocket("/ws/echo")
        client.reset()
        assert app.state.ends.next() == (1006, "")
    with talk(server, "/ws/echo") as stays:
        server.begin_stop()
        assert ended(stays) == (1012, "service restart")
        assert app.state.ends.next() == (1012, "service restart")


def test_websocket_json_is_received_and_sent(server: RunningServer) -> None:
    """receive_json and send_json."""
    with talk(server, "/ws/json") as client:
        values: tuple[object, ...] = ({"a": [1, None, "ü"]}, [], "text", 0)
        for value in values:
            client.send(json.dumps(value))
            assert hear(client) == {"you said": value}


@pytest.mark.parametrize("offered", [["v2.chat"], ["v1.chat", "v2.chat"]])
def test_websocket_subprotocol_is_accepted(server: RunningServer, offered: list[str]) -> None:
    """accept(subprotocol=...) with one that was offered."""
    subprotocols = [Subprotocol(name) for name in offered]
    with connect(f"{server.ws_url}/ws/subprotocol", subprotocols=subprotocols, proxy=None) as client:
        assert client.subprotocol == "v2.chat"
        assert hear(client) == offered


def test_websocket_dependency_with_yield_is_put_away_when_the_client_left(server: RunningServer, app: FastAPI) -> None:
    """What was opened for a connection lives as long as it does."""
    with talk(server, "/ws/session") as client:
        assert client.recv(PATIENCE_S) == "session"
        assert app.state.done.next() == "opened"
        client.send("still there")
        assert client.recv(PATIENCE_S) == "still there"
        assert app.state.done.empty
    assert app.state.done.next() == "put away"


def test_requests_and_websockets_are_served_beside_each_other(server: RunningServer) -> None:
    """Thirty of each at once, threads of the framework among them."""

    async def speak(number: int) -> str:
        async with connect_async(f"{server.ws_url}/ws/rooms/{number}", proxy=None) as client:
            await client.recv()
            await client.send("hello")
            return f"{number} {await client.recv()!s}"

    async def run() -> tuple[list[int], list[str]]:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=PATIENCE_S) as http:
            answers = asyncio.gather(*(http.get(f"/items/{number}") for number in range(30)))
            talks = asyncio.gather(*(speak(number) for number in range(30)))
            return [answer.json()["item_id"] for answer in await answers], await talks

    assert asyncio.run(run()) == (list(range(30)), [f"{number} nobody: hello" for number in range(30)])
