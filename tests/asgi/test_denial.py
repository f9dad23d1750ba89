"""The extension `websocket.http.response`: a handshake answered with an HTTP response (checklist 4.4, E1)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import asgiws
from asgiws.server.asgi import Event, Scope
from tests.apps import Receive, Recorder, Send, refuse_lifespan
from tests.asgi.app_help import (
    Talk,
    assert_logged_once,
    disconnected,
    error_lines,
    error_of,
    on_request,
    values,
)
from tests.conftest import Serve
from tests.raw import Answer, RawClient, frame, handshake, text

START: dict[str, Any] = {"type": "websocket.http.response.start", "status": 401, "headers": []}
BODY: dict[str, Any] = {"type": "websocket.http.response.body"}


def denial(serve: Serve, *events: Event, request: bytes | None = None) -> tuple[Answer, bytes]:
    """Give the answer that these events make, and what came behind it."""

    async def talk(receive: Receive, send: Send) -> None:
        await receive()
        for event in events:
            await send(event)

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(request or handshake())
        return client.read_answer(), client.read_to_end()


def test_e1_scope_names_the_extension(serve: Serve) -> None:
    """ASGI E1: `{}` in the extensions of a websocket, and not of a request."""
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        seen.put(scope["extensions"].get("websocket.http.response"))
        await send({"type": "websocket.close"})

    with RawClient(serve(app).port) as client:
        client.send(handshake())
        assert seen.next() == {}


@pytest.mark.parametrize("asked", [True, False], ids=["behind connect", "at once"])
def test_e1_answer_has_the_status_the_headers_and_the_body_of_the_app(serve: Serve, asked: bool) -> None:
    """ASGI E1: the same keys as of an HTTP response; then the connection ends."""
    headers = [(b"X-B", b"2"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"content-length", b"5")]

    async def talk(receive: Receive, send: Send) -> None:
        if asked:
            await receive()
        await send({**START, "headers": headers})
        await send({**BODY, "body": b"hello"})

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(handshake())
        answered = client.read_answer()
        assert (answered.status, answered.body) == (401, b"hello")
        given = [header for header in answered.headers if header[0] in (b"x-b", b"set-cookie", b"content-length")]
        assert given == [(name.lower(), value) for name, value in headers]
        assert values(answered, b"connection") == [b"close"]
        assert answered.header(b"sec-websocket-accept") is None
        assert client.read_to_end() == b""


def test_e1_answer_in_one_piece_has_a_length(serve: Serve) -> None:
    """RFC 9110 §8.6: known before the head leaves."""
    answered, rest = denial(serve, START, {**BODY, "body": b"hello"})
    assert (answered.header(b"content-length"), answered.header(b"transfer-encoding")) == (b"5", None)
    assert (answered.body, rest) == (b"hello", b"")


@pytest.mark.parametrize("start", [START, {"type": START["type"], "status": 404}, {**START, "headers": None}])
@pytest.mark.parametrize("body", [BODY, {**BODY, "body": b""}, {**BODY, "more_body": False}])
def test_e1_answer_without_a_body_is_whole(serve: Serve, start: Event, body: Event) -> None:
    """ASGI E1: `headers`, `body` and `more_body` may be left out."""
    answered, behind = denial(serve, start, body)
    assert (answered.status, answered.body, behind) == (start["status"], b"", b"")


@pytest.mark.parametrize("status", [200, 204, 302, 304, 503])
def test_e1_any_final_status_is_sent(serve: Serve, status: int) -> None:
    """ASGI E1: the application chooses it, also one that says yes; that is no handshake either."""
    answered, behind = denial(serve, {**START, "status": status}, {**BODY, "body": b"x"})
    assert answered.status == status
    assert answered.body == (b"" if status in (204, 304) else b"x")
    assert behind == b""


def test_e1_body_is_streamed(serve: Serve) -> None:
    """ASGI E1: `more_body`; each piece is with the client while the application goes on."""
    go_on = asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        await receive()
        await send(START)
        await send({**BODY, "body": b"one", "more_body": True})
        await go_on.wait()
        await send({**BODY, "body": b"", "more_body": True})
        await send({**BODY, "body": b"two"})

    server = serve(on_request(talk))
    with RawClient(server.port) as client:
        client.send(handshake())
        assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 401 Unauthorized\r\n")
        assert client.read_exactly(8) == b"3\r\none\r\n"
        server.call(go_on.set)
        assert client.read_to_end() == b"3\r\ntwo\r\n0\r\n\r\n"


def test_e1_large_answer_reaches_a_client_that_is_still_sending(serve: Serve) -> None:
    """ASGI E1: what the client sends behind its handshake is not answered by a reset that destroys the response."""
    answered, _ = denial(serve, START, {**BODY, "body": b"x" * 3_000_000},
                         request=handshake() + frame(2, bytes(60_000)))  # fmt: skip
    assert answered.body == b"x" * 3_000_000


def test_e1_app_is_told_of_its_end(serve: Serve) -> None:
    """ASGI E1: behind a whole answer `receive` gives the disconnect and `send` raises."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await receive()
        await send(START)
        await send(BODY)
        seen.put(await receive())
        seen.put(await receive())
        seen.put(await error_of(send({"type": "websocket.accept"})))

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(handshake() + text("early"))
        assert client.read_answer().status == 401
        assert [seen.next(), seen.next()] == [disconnected(1006)] * 2
        assert type(seen.next()) is asgiws.ClientDisconnected


@pytest.mark.parametrize(
    "event",
    [
        {"type": "websocket.accept"}, {"type": "websocket.close"}, {"type": "websocket.send", "text": "x"}, START,
        {**BODY, "body": "str"}, {**BODY, "body": None}, {"type": "http.response.body", "body": b"x"}, {"body": b"x"},
    ],
    ids=["accept", "close", "send", "start", "body as str", "body as None", "body of http", "no type"],
)  # fmt: skip
def test_e1_no_other_message_may_follow_the_start(serve: Serve, event: Event) -> None:
    """ASGI E1, C4: after the start only the body; what raised has not happened."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await receive()
        await send(START)
        seen.put(await error_of(send(event)))
        await send({**BODY, "body": b"one", "more_body": True})
        seen.put(await error_of(send(event)))
        await send({**BODY, "body": b"two"})

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(handshake())
        assert client.read_answer().body == b"onetwo"
        assert client.read_to_end() == b""
        for error in (seen.next(), seen.next()):
            assert isinstance(error, Exception)
            assert not isinstance(error, OSError)


# ---- answers that do not come to their end


async def ends_early(send: Send) -> None:
    await send(START)
    await send({**BODY, "body": b"begun", "more_body": True})


async def only_starts(send: Send) -> None:
    await send(START)


async def too_short(send: Send) -> None:
    await send({**START, "headers": [(b"content-length", b"6")]})
    await send({**BODY, "body": b"begun"})


async def too_long(send: Send) -> None:
    await send({**START, "headers": [(b"content-length", b"5")]})
    await send({**BODY, "body": b"begun" + b"HTTP/1.1 101 Switching Protocols\r\n\r\n"})


def sends_and(part: Any, raises: bool) -> Talk:
    async def talk(receive: Receive, send: Send) -> None:
        await receive()
        await part(send)
        if raises:
            raise ValueError("mid-way")

    return talk


@pytest.mark.parametrize("part", [ends_early, only_starts, too_short, too_long])
def test_e1_app_that_raises_in_its_answer_ends_the_connection_and_the_answer_stays_incomplete(
    serve: Serve, caplog: pytest.LogCaptureFixture, part: Any
) -> None:
    """ASGI E1, C6: the client must be able to tell; the error is logged once."""
    server = serve(on_request(sends_and(part, raises=True)))
    with RawClient(server.port) as client:
        client.send(handshake())
        head, _, body = client.read_to_end().partition(b"\r\n\r\n")
        assert b"5\r\nbegun\r\n".startswith(body)
        assert b"content-length" not in head or len(body) < 5
        assert b" 500 " not in head
    server.stop()
    assert_logged_once(caplog, "ValueError")


@pytest.mark.parametrize("part", [ends_early, only_starts])
def test_e1_app_that_returns_in_its_answer_ends_the_connection_and_the_answer_stays_incomplete(
    serve: Serve, caplog: pytest.LogCaptureFixture, part: Any
) -> None:
    """ASGI E1, C6: the same without an error; its operator reads why."""
    server = serve(on_request(sends_and(part, raises=False)))
    with RawClient(server.port) as client:
        client.send(handshake())
        assert b"5\r\nbegun\r\n".startswith(client.read_to_end().partition(b"\r\n\r\n")[2])
    server.stop()
    assert len(error_lines(caplog)) == 1


def test_e1_client_that_leaves_during_the_answer_gives_1006_and_send_raises(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """ASGI E1, W8, W26: as on an open websocket; also when `send` was blocked, whatever the deadlines."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await receive()
        await send(START)
        seen.put(await error_of(send({**BODY, "body": bytes(64 * 2**20), "more_body": True})))
        seen.put(await receive())
        await send({**BODY, "body": b"x"})

    server = serve(on_request(talk), write_timeout=0)
    with RawClient(server.port, receive_buffer=4096) as client:
        client.send(handshake())
        client.read_until(b"\r\n\r\n")
        assert seen.empty
        client.reset()
        assert type(seen.next()) is asgiws.ClientDisconnected
        assert seen.next() == disconnected(1006)
    server.stop()
    assert error_lines(caplog) == []
