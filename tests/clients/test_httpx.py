"""httpx as a client: one connection for many requests, bodies in streams both ways, many requests at once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from asgiws.server.asgi import Event, Scope
from tests import PATIENCE_S
from tests.apps import Receive, Recorder, Send, refuse_lifespan
from tests.conftest import Serve

MIB = 1024 * 1024


class Site:
    """An HTTP application: each path does one thing.

    /port      the client's port, as this server sees it: the same number is the same connection
    /scope     what is known of the request, as JSON
    /body      the body's length and digest, read piece by piece
    /status    the query's status, with a body where one may be
    /long      a body of the query's size in one piece with its length, /chunks in pieces without
    /pieces    each piece of the body goes to `heard`
    /first     "first", and when `go_on` is set "second"
    /ignore    an answer without a look at the body
    /wait      an answer once as many requests as the query says wait for one
    """

    def __init__(self) -> None:
        self.heard = Recorder()
        self.go_on = threading.Event()
        self._waiting = 0
        self._all_here = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        handler = getattr(self, "_" + scope["path"].strip("/"), self._missing)
        await handler(Request(scope, query, receive, send))

    async def _missing(self, request: Request) -> None:
        await request.answer(b"not here", 404)

    async def _port(self, request: Request) -> None:
        await request.answer(str(request.scope["client"][1]).encode())

    async def _scope(self, request: Request) -> None:
        scope = request.scope
        headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
        known = {"method": scope["method"], "path": scope["path"], "raw_path": scope["raw_path"].decode(),
                 "query": scope["query_string"].decode(), "headers": headers}  # fmt: skip
        await request.answer(json.dumps(known).encode(), headers=[(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")])

    async def _body(self, request: Request) -> None:
        size, digest = 0, hashlib.sha256()
        async for piece in request.body():
            size += len(piece)
            digest.update(piece)
        await request.answer(f"{size} {digest.hexdigest()}".encode())

    async def _pieces(self, request: Request) -> None:
        async for piece in request.body():
            self.heard.put(piece)
        await request.answer(b"all heard")

    async def _status(self, request: Request) -> None:
        await request.answer(b"body", int(request.query["code"]))

    async def _long(self, request: Request) -> None:
        body = b"x" * int(request.query["size"])
        await request.answer(body, headers=[(b"content-length", str(len(body)).encode())])

    async def _chunks(self, request: Request) -> None:
        await request.start()
        for number in range(int(request.query["count"])):
            await request.send({"type": "http.response.body", "body": b"%d," % number, "more_body": True})
        await request.send({"type": "http.response.body"})

    async def _first(self, request: Request) -> None:
        await request.start()
        await request.send({"type": "http.response.body", "body": b"first", "more_body": True})
        await asyncio.to_thread(self.go_on.wait, PATIENCE_S)
        await request.send({"type": "http.response.body", "body": b"second"})

    async def _ignore(self, request: Request) -> None:
        await request.answer(b"too much", 413)

    async def _wait(self, request: Request) -> None:
        self._waiting += 1
        if self._waiting == int(request.query["count"]):
            self._all_here.set()
        await self._all_here.wait()
        await request.answer(b"all here")


class Request:
    """One request to the site."""

    def __init__(self, scope: Scope, query: dict[str, str], receive: Receive, send: Send) -> None:
        self.scope, self.query, self.receive, self.send = scope, query, receive, send

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the pieces of the body that are not empty."""
        event: Event = {"more_body": True}
        while event["more_body"]:
            event = await self.receive()
            assert event["type"] == "http.request"
            if event["body"]:
                yield event["body"]

    async def start(self, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        fields = [(b"content-type", b"text/plain"), *(headers or [])]
        await self.send({"type": "http.response.start", "status": status, "headers": fields})

    async def answer(self, body: bytes, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        await self.start(status, headers)
        await self.send({"type": "http.response.body", "body": body})


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def http(serve: Serve, site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=serve(site).url, trust_env=False, timeout=PATIENCE_S) as client:
        yield client


# ---- one connection


def exchange(http: httpx.Client, kind: str) -> httpx.Response:
    """One request of a kind that leaves the connection open."""
    match kind:
        case "get":
            return http.get("/long?size=10")
        case "chunked":
            return http.get("/chunks?count=5")
        case "head":
            return http.head("/long?size=10")
        case "head-chunked":
            return http.head("/chunks?count=5")
        case "post":
            return http.post("/body", content=b"x" * 100_000)
        case "post-chunked":
            return http.post("/body", content=iter([b"x" * 1000] * 100))
        case "post-unread":
            return http.post("/port", content=b"x" * 1000)
        case _:
            return http.get(f"/status?code={kind}")


KINDS = ("get", "chunked", "head", "head-chunked", "post", "post-chunked", "post-unread", "204", "304", "404", "500")


@pytest.mark.parametrize("kind", KINDS)
def test_connection_is_used_again_after(http: httpx.Client, kind: str) -> None:
    """RFC 9112 §9.3: whatever the request and the answer were, the next one begins behind them."""
    before = http.get("/port").text
    for _ in range(3):
        exchange(http, kind)
        assert http.get("/port").text == before


def test_connection_is_used_again_after_all_of_them_in_turn(http: httpx.Client) -> None:
    """RFC 9112 §9.3: two hundred requests, one connection."""
    ports = set()
    for turn in range(100):
        exchange(http, KINDS[turn % len(KINDS)])
        ports.add(http.get("/port").text)
    assert len(ports) == 1


def test_connection_close_is_obeyed(http: httpx.Client) -> None:
    """RFC 9112 §9.6: the client asks for the end, and the next request has a new connection."""
    before = http.get("/port").text
    answer = http.get("/port", headers={"Connection": "close"})
    assert answer.text == before
    assert answer.headers["connection"] == "close"
    assert http.get("/port").text != before


# ---- requests


def test_request_is_seen_as_it_was_sent(http: httpx.Client) -> None:
    """ASGI scope: path decoded and raw, query as it came, headers in order and in lower case."""
    headers = [(b"X-Two", b"1"), (b"X-Two", b"2"), (b"X-One", "ä".encode())]
    known = http.request("PATCH", "/scope/", params={"q": "a b&c", "ü": "1"}, headers=headers).json()

    assert known["method"] == "PATCH"
    assert known["query"] == "q=a+b%26c&%C3%BC=1"
    assert [value for name, value in known["headers"] if name == "x-two"] == ["1", "2"]
    assert dict(known["headers"])["x-one"].encode("latin-1").decode() == "ä"
    assert [name for name, _ in known["headers"]] == [name.lower() for name, _ in known["headers"]]


def test_path_with_escapes_is_decoded_once(http: httpx.Client) -> None:
    """ASGI scope: `path` is decoded, `raw_path` is not; what is escaped twice stays escaped once."""
    assert http.get("/gr%C3%BC%C3%9Fe%2Fx%252F").status_code == 404
    known = http.get("/%73cope").json()
    assert (known["path"], known["raw_path"]) == ("/scope", "/%73cope")


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 10 * MIB])
@pytest.mark.parametrize("chunked", [False, True])
def test_body_arrives_whole(http: httpx.Client, size: int, chunked: bool) -> None:
    """RFC 9112 §6.2 and §7.1: by its length, or in chunks of odd sizes."""
    body = bytes(size)

    def pieces() -> Iterator[bytes]:
        for at in range(0, size, 4093):
            yield body[at : at + 4093]

    answer = http.post("/body", content=pieces() if chunked else body)
    assert answer.text == f"{size} {hashlib.sha256(body).hexdigest()}"


def test_many_tiny_chunks_arrive(http: httpx.Client) -> None:
    """RFC 9112 §7.1: ten thousand chunks of one byte."""
    answer = http.post("/body", content=iter([b"x"] * 10_000))
    assert answer.text == f"10000 {hashlib.sha256(b'x' * 10_000).hexdigest()}"


def test_body_is_heard_while_it_is_sent(http: httpx.Client, site: Site) -> None:
    """ASGI http.request: each piece reaches the application before the client goes on."""

    def pieces() -> Iterator[bytes]:
        for number in range(5):
            yield b"piece %d" % number
            assert site.heard.next() == b"piece %d" % number

    assert http.post("/pieces", content=pieces()).text == "all heard"


@pytest.mark.parametrize("chunked", [False, True])
def test_answer_that_comes_before_a_large_body_was_read_is_seen(http: httpx.Client, chunked: bool) -> None:
    """RFC 9112 §9.6: the rest of the body is thrown away, so that the answer is not lost to a reset."""
    body = bytes(8 * MIB)
    answer = http.post("/ignore", content=iter([body[:MIB]] * 8) if chunked else body)

    assert (answer.status_code, answer.text) == (413, "too much")
    assert http.get("/long?size=1").text == "x"


def test_expectation_is_fulfilled_though_the_client_does_not_wait(http: httpx.Client) -> None:
    """RFC 9110 §10.1.1: a client may send the body at once, and gets its answer."""
    answer = http.post("/body", content=b"x" * 1000, headers={"Expect": "100-continue"})
    assert answer.text.startswith("1000 ")


# ---- answers


@pytest.mark.parametrize("size", [0, 1, 65_536, 20 * MIB])
def test_body_with_a_length_is_received(http: httpx.Client, size: int) -> None:
    """RFC 9110 §8.6."""
    answer = http.get(f"/long?size={size}")
    assert answer.headers["content-length"] == str(size)
    assert answer.content == b"x" * size


def test_body_without_a_length_is_chunked(http: httpx.Client) -> None:
    """RFC 9112 §7.1: the application gave no length, and an empty last piece."""
    answer = http.get("/chunks?count=1000")
    assert answer.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in answer.headers
    assert answer.text == "".join(f"{number}," for number in range(1000))


def test_body_is_received_while_it_is_sent(http: httpx.Client, site: Site) -> None:
    """ASGI http.response.body: the first piece is here before the application is told to go on."""
    with http.stream("GET", "/first") as answer:
        pieces = answer.iter_bytes()
        assert next(pieces) == b"first"
        site.go_on.set()
        assert b"".join(pieces) == b"second"


def test_application_is_told_when_a_client_leaves_in_the_middle(serve: Serve) -> None:
    """ASGI http.disconnect: the client closes its connection while more would come."""
    heard = Recorder()

    async def watch(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        for _ in range(2):
            heard.put((await receive())["type"])

    with httpx.Client(trust_env=False, timeout=PATIENCE_S) as client:
        with client.stream("GET", serve(watch).url) as answer:
            assert next(answer.iter_bytes()) == b"first"
            assert heard.next() == "http.request"
        assert heard.next() == "http.disconnect"


@pytest.mark.parametrize("path", ["/long?size=1000", "/chunks?count=10", "/nowhere", "/status?code=500"])
def test_head_has_the_fields_of_get_and_no_body(http: httpx.Client, path: str) -> None:
    """RFC 9110 §9.3.2: the same status and fields, though the application sends a body."""
    get, head = http.get(path), http.head(path)

    assert head.status_code == get.status_code
    assert head.content == b""
    ours = {"date"}
    assert {name: value for name, value in head.headers.items() if name not in ours} == {
        name: value for name, value in get.headers.items() if name not in ours
    }


@pytest.mark.parametrize("code", [200, 201, 400, 404, 418, 451, 500, 503, 599])
def test_status_and_body_of_the_application_are_received(http: httpx.Client, code: int) -> None:
    """RFC 9110 §15: any status of three digits, with its reason phrase where it has one."""
    answer = http.get(f"/status?code={code}")
    assert (answer.status_code, answer.text) == (code, "body")


@pytest.mark.parametrize("code", [204, 304])
def test_status_without_a_body_has_none(http: httpx.Client, code: int) -> None:
    """RFC 9110 §15.3.5 and §15.4.5: whatever the application sent behind it."""
    answer = http.get(f"/status?code={code}")
    assert (answer.status_code, answer.content) == (code, b"")
    assert "transfer-encoding" not in answer.headers


def test_fields_that_come_twice_are_both_received(http: httpx.Client) -> None:
    """RFC 9110 §5.3: Set-Cookie is not joined."""
    assert http.get("/scope").headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert dict(http.cookies) == {"a": "1", "b": "2"}
    assert dict(http.get("/scope").json()["headers"])["cookie"] == "a=1; b=2"


def test_missing_paths_are_the_applications_to_answer(http: httpx.Client) -> None:
    """The server has no paths of its own."""
    for path in ("/", "/nowhere", "/healthz", "/metrics", "/favicon.ico"):
        assert (http.get(path).status_code, http.get(path).text) == (404, "not here")


# ---- many at once


def test_requests_are_served_at_once(serve: Serve, site: Site) -> None:
    """Fifty requests of which none is answered before all have come."""
    url = serve(site).url

    async def ask() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=50)
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE_S, limits=limits) as client:
            return await asyncio.gather(*(client.get("/wait?count=50") for _ in range(50)))

    assert [answer.text for answer in asyncio.run(ask())] == ["all here"] * 50


def test_requests_share_few_connections_and_get_their_own_answers(serve: Serve, site: Site) -> None:
    """RFC 9112 §9.3: three hundred requests over ten connections, large and small, none mixed up."""
    url = serve(site).url

    async def ask(client: httpx.AsyncClient, number: int) -> bool:
        body = bytes([number % 256]) * (number * 331 % 50_000)
        answer = await client.post("/body", content=body)
        return answer.text == f"{len(body)} {hashlib.sha256(body).hexdigest()}"

    async def ask_all() -> list[bool]:
        limits: Any = httpx.Limits(max_connections=10)
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE_S, limits=limits) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(300)))

    assert asyncio.run(ask_all()) == [True] * 300


def test_unix_socket_is_served_like_a_port(serve: Serve, site: Site, tmp_path: Path) -> None:
    """ASGI scope: a Unix socket has no client address, and the site's path of it is the server's."""
    serve(site, uds=str(tmp_path / "socket"))
    transport = httpx.HTTPTransport(uds=str(tmp_path / "socket"))
    with httpx.Client(base_url="http://localhost", transport=transport, timeout=PATIENCE_S) as client:
        assert client.get("/long?size=5").text == "xxxxx"
        assert client.post("/body", content=b"abc").text.startswith("3 ")
