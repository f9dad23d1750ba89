"""ASGI HTTP 2.5 over the life of a connection: pipelining, trailers and 100 Continue (checklist 4.2, H12)."""

from __future__ import annotations

import asyncio

import pytest

from asgiws.server.asgi import Scope
from tests.apps import Receive, Recorder, Send, refuse_lifespan
from tests.asgi.app_help import (
    POST,
    answer,
    begin_answer,
    body,
    error_of,
    get,
    on_request,
)
from tests.conftest import Serve
from tests.raw import RawClient

TE = ("TE: trailers", "Connection: TE")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


# ---- pipelining


def test_pipelined_requests_are_answered_in_order_behind_a_slow_one(serve: Serve) -> None:
    """RFC 9112 §9.3.2: responses go out in the order of the requests; the first may take its time."""
    seen = Recorder()
    slow_is_done = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        seen.put(scope["path"])
        await begin_answer(send)
        await body(send, b"begin ", more=True)
        if scope["path"] == "/slow":
            await slow_is_done.wait()
        event = await receive()
        await body(send, scope["path"].encode() + b" " + event["body"])

    server = serve(app)
    with RawClient(server.port) as client:
        client.send(get("/slow") + POST + get("/last", "Connection: close"))
        assert seen.next() == "/slow"
        client.read_until(b"begin \r\n")
        server.call(slow_is_done.set)
        assert client.read_until(b"\r\n0\r\n\r\n") == b"6\r\n/slow "
        assert [client.read_answer().body for _ in range(2)] == [b"begin / body", b"begin /last "]
        assert client.read_to_end() == b""


def test_pipelined_request_waits_until_the_one_before_is_answered(serve: Serve) -> None:
    """RFC 9112 §9.3.2; ASGI H17 on HTTP/1.1: one request of a connection is with the application at a time."""
    events = Recorder()
    slow_is_done = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        events.put(f"begin {scope['path']}")
        if scope["path"] == "/slow":
            await slow_is_done.wait()
        events.put(f"end {scope['path']}")
        await answer(send)

    server = serve(app)
    with RawClient(server.port) as client, RawClient(server.port) as other:
        client.send(get("/slow") + get("/quick"))
        assert events.next() == "begin /slow"
        for _ in range(3):
            other.send(get("/other"))
            other.read_answer()
            assert [events.next(), events.next()] == ["begin /other", "end /other"]
        server.call(slow_is_done.set)
        client.read_answer()
        client.read_answer()
        assert [events.next() for _ in range(3)] == ["end /slow", "begin /quick", "end /quick"]


def test_many_pipelined_requests_in_one_packet_are_all_answered(serve: Serve) -> None:
    """RFC 9112 §9.3.2: more requests than are held unread at a time."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        await answer(send, scope["path"].encode())

    with RawClient(serve(app).port) as client:
        client.send(b"".join(get(f"/{number}", "X: " + "x" * 500) for number in range(400)))
        for number in range(400):
            assert client.read_answer().body == b"/%d" % number


# ---- a body that nobody reads


@pytest.mark.parametrize(
    ("head", "sent", "kept"),
    [
        ("Content-Length: 65546", 10, True),
        ("Content-Length: 65547", 10, False),
        ("Transfer-Encoding: chunked", 0, False),
        ("Transfer-Encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n", True),
    ],
    ids=["64 KiB left", "a byte more left", "chunks to come", "whole"],
)
def test_connection_is_kept_only_if_the_rest_of_the_body_is_small(
    serve: Serve, head: str, sent: int | bytes, kept: bool
) -> None:
    """RFC 9112 §9.6: an answer says `connection: close` when the body is not read to its end for the next request.

    The client would send that on a connection that is about to end.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        if scope["method"] == "POST" and isinstance(sent, int) and sent:
            await receive()
        await answer(send)

    with RawClient(serve(app).port) as client:
        data = bytes(sent) if isinstance(sent, int) else sent
        client.send(f"POST / HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode() + data)
        assert (client.read_answer().header(b"connection") == b"close") is not kept
        if not kept:
            assert client.read_to_end() == b""
        elif isinstance(sent, int):
            client.send(bytes(65536) + get("/"))
            assert client.read_answer().status == 200


# ---- trailers


@pytest.mark.parametrize("te", [True, False], ids=["TE trailers", "no TE"])
def test_h12_response_waits_for_its_trailers(serve: Serve, te: bool) -> None:
    """ASGI H12: with `trailers: True` the response is complete with its trailers, sent to a client that asked for them.

    The next request is not begun before.
    """
    body_sent, seen = asyncio.Event(), Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        seen.put(scope["path"])
        await begin_answer(send, trailers=True)
        await body(send, b"body")
        if scope["path"] == "/slow":
            await body_sent.wait()
        seen.put("trailers")
        await send({"type": "http.response.trailers", "headers": [(b"X-A", b"1")], "more_trailers": True})
        await send({"type": "http.response.trailers", "headers": [(b"x-b", b"2")]})

    server = serve(app)
    with RawClient(server.port) as client, RawClient(server.port) as other:
        client.send(get("/slow", *TE * te) + get("/quick", *TE * te))
        assert seen.next() == "/slow"
        client.read_until(b"body\r\n")
        other.send(get("/other"))
        other.read_answer()
        assert [seen.next(), seen.next()] == ["/other", "trailers"]
        server.call(body_sent.set)
        trailers = b"x-a: 1\r\nx-b: 2\r\n" if te else b""
        assert client.read_until(b"HTTP/1.1") == b"0\r\n" + trailers + b"\r\n"
        assert [seen.next() for _ in range(3)] == ["trailers", "/quick", "trailers"]
        client.buffer = b"HTTP/1.1" + client.buffer
        answered = client.read_answer()
        assert answered.body == b"body"
        assert (answered.header(b"x-a"), answered.header(b"x-b")) == ((b"1", b"2") if te else (None, None))


@pytest.mark.parametrize("framing", ["HTTP/1.0", "length", "HEAD"])
def test_h12_trailers_where_there_is_no_place_for_them_are_left_out(serve: Serve, framing: str) -> None:
    """ASGI H12: the application may send them all the same; the response stays well framed."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        await begin_answer(send, *[(b"content-length", b"4")] if framing == "length" else [], trailers=True)
        await body(send, b"body")
        await send({"type": "http.response.trailers", "headers": [(b"x-a", b"1")]})

    method = "HEAD" if framing == "HEAD" else "GET"
    version = "1.0" if framing == "HTTP/1.0" else "1.1"
    with RawClient(serve(app).port) as client:
        client.send(get("/", "TE: trailers", "Connection: close, TE", method=method, version=version))
        answered = client.read_answer(head_only=framing == "HEAD")
        assert answered.body == (b"" if framing == "HEAD" else b"body")
        assert client.read_to_end() == b""
        assert answered.header(b"x-a") is None


@pytest.mark.parametrize("name", [b"content-length", b"transfer-encoding", b"x\r\ny"])
def test_h12_trailer_that_must_not_be_one_raises(serve: Serve, name: bytes) -> None:
    """RFC 9110 §6.5.1: no field that frames the message; and no line end."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send, trailers=True)
        await body(send, b"body")
        seen.put(await error_of(send({"type": "http.response.trailers", "headers": [(name, b"1")]})))
        await send({"type": "http.response.trailers", "headers": []})

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get("/", *TE) + get("/", *TE))
        for _ in range(2):
            assert client.read_answer().body == b"body"
            assert isinstance(seen.next(), ValueError)


def test_h12_app_that_returns_without_its_trailers_ends_the_connection(serve: Serve) -> None:
    """ASGI H12, C6: the response is not complete, and must not pass for it."""

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send, trailers=True)
        await body(send, b"body")

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get("/", *TE) + get("/", *TE))
        assert not client.read_to_end().endswith(b"\r\n\r\n")


# ---- 100 Continue (RFC 9110 §10.1.1)


def test_100_continue_is_sent_when_the_app_asks_for_the_body(serve: Serve) -> None:
    """RFC 9110 §10.1.1: the client is told to send its body once, when the application wants it."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        while True:
            event = await receive()
            seen.put(event["body"])
            if not event["more_body"]:
                break
        await answer(send, b"read")

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get("/", "Expect: 100-Continue", "Content-Length: 4", method="POST"))
        assert client.read_exactly(len(CONTINUE)) == CONTINUE
        for part in (b"bo", b"dy"):
            client.send(part)
            assert seen.next() == part
        assert client.read_answer().body == b"read"
        client.send(get("/", "Connection: close"))
        assert client.read_answer().status == 200
        assert client.read_to_end() == b""


def test_100_continue_is_not_sent_when_the_app_answers_without_reading(serve: Serve) -> None:
    """RFC 9110 §10.1.1: a final status instead; what comes then may be a body, so the connection ends."""

    async def talk(receive: Receive, send: Send) -> None:
        await answer(send, b"no", status=403)

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get("/", "Expect: 100-continue", "Content-Length: 4", method="POST"))
        answered = client.read_answer()
        assert (answered.status, answered.header(b"connection")) == (403, b"close")
        assert client.read_to_end() == b""


def test_100_continue_is_not_sent_behind_the_begin_of_the_response(serve: Serve) -> None:
    """RFC 9110 §15.2: an interim response stands before the final one, never inside it."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send)
        await body(send, b"begun", more=True)
        seen.put(await receive())
        await body(send)

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get("/", "Expect: 100-continue", "Content-Length: 4", method="POST"))
        client.read_until(b"begun\r\n")
        client.send(b"body")
        assert seen.next()["body"] == b"body"
        assert client.read_to_end() == b"0\r\n\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        get("/", "Expect: 100-continue", "Content-Length: 4", method="POST") + b"body",
        get("/", "Expect: 100-continue", "Content-Length: 0", method="POST"),
        get("/", "Expect: 100-continue"),
    ],
    ids=["the body", "length 0", "no body"],
)
def test_100_continue_is_not_sent_for_a_body_that_is_there(serve: Serve, request_bytes: bytes) -> None:
    """RFC 9110 §10.1.1: a server may omit 100 when it has received some of the body; without one it has no sense."""

    async def talk(receive: Receive, send: Send) -> None:
        await answer(send, (await receive())["body"] + b"!")

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(request_bytes + get())
        for _ in range(2):
            answered = client.read_answer()
            assert (answered.status, answered.body[-1:]) == (200, b"!")


def test_100_continue_is_not_sent_when_the_body_has_begun_to_come(serve: Serve) -> None:
    """RFC 9110 §10.1.1: a server may omit 100 when it has received some of the body; this client did not wait."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        seen.put(await receive())
        rest = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        seen.put("waits")
        seen.put(await rest)
        await answer(send, b"read")

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get("/", "Expect: 100-continue", "Content-Length: 4", method="POST") + b"bo")
        assert [seen.next()["body"], seen.next()] == [b"bo", "waits"]
        client.send(b"dy")
        assert seen.next()["body"] == b"dy"
        answered = client.read_answer()
        assert (answered.status, answered.body) == (200, b"read")


def test_100_continue_is_not_sent_to_http_1_0(serve: Serve) -> None:
    """RFC 9110 §10.1.1: a server MUST ignore the expectation in an HTTP/1.0 request."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        seen.put("called")
        event = await receive()
        await answer(send, event["body"])

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get("/", "Expect: 100-continue", "Content-Length: 4", method="POST", version="1.0"))
        assert seen.next() == "called"
        client.send(b"body")
        answered = client.read_answer()
        assert (answered.status, answered.body) == (200, b"body")
