"""ASGI WebSocket 2.5: from the handshake to the accept or the refusal (checklist 4.3, W3 to W6 and W10).

HTTP/2 and encrypted connections (`http_version` "2", scheme wss) are not part of these tests.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import asgiws
from asgiws.server.asgi import Event, Scope
from tests.apps import Receive, Recorder, Send, refuse_lifespan, say
from tests.asgi.app_help import (
    answer,
    assert_logged_once,
    disconnected,
    error_lines,
    error_of,
    get,
    on_request,
    on_websocket,
    read_to_disconnect,
    received,
    values,
    wait_connections,
    websocket_watcher,
)
from tests.conftest import Serve
from tests.raw import ACCEPT, RawClient, close, frame, handshake, text

CONNECT = {"type": "websocket.connect"}


def scope_of(serve: Serve, request: bytes, **options: object) -> Scope:
    """Give the scope that a handshake makes."""
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        seen.put(scope)
        await send({"type": "websocket.close"})

    with RawClient(serve(app, **options).port) as client:
        client.send(request)
        scope: Scope = seen.next()
        assert client.read_answer().status == 403
    return scope


# ---- W3: the scope


def test_w3_scope_has_the_keys_of_the_specification_and_no_other(serve: Serve) -> None:
    """ASGI W3: each key, each with its type."""
    scope = scope_of(serve, handshake("/a?b", "Sec-WebSocket-Protocol: a"))
    assert {key: type(value) for key, value in scope.items()} == {
        "type": str, "asgi": dict, "http_version": str, "scheme": str, "path": str, "raw_path": bytes,
        "query_string": bytes, "root_path": str, "headers": list, "client": tuple, "server": tuple,
        "subprotocols": list, "extensions": dict,
    }  # fmt: skip
    assert (scope["type"], scope["http_version"], scope["scheme"], scope["root_path"]) == ("websocket", "1.1", "ws", "")


def test_w3_path_is_decoded_and_raw_path_and_query_are_as_they_came(serve: Serve) -> None:
    """ASGI W3: as for HTTP."""
    scope = scope_of(serve, handshake("/caf%C3%A9%2F?q=%20"), root_path="/api")
    assert (scope["path"], scope["raw_path"]) == ("/api/café/", b"/api/caf%C3%A9%2F")
    assert (scope["query_string"], scope["root_path"]) == (b"q=%20", "/api")


def test_w3_headers_keep_their_order_and_duplicates(serve: Serve) -> None:
    """ASGI W3: the order should be kept, duplicates must be; those of the handshake are there, too."""
    headers = scope_of(serve, handshake("/", "X-B: 2", "Cookie: a=1", "X-A: 1", "cookie: b=2"))["headers"]
    assert headers[0] == (b"host", b"localhost")
    assert headers[-4:] == [(b"x-b", b"2"), (b"cookie", b"a=1"), (b"x-a", b"1"), (b"cookie", b"b=2")]
    assert (b"sec-websocket-version", b"13") in headers


@pytest.mark.parametrize(
    ("lines", "subprotocols"),
    [
        ([], []),
        (["Sec-WebSocket-Protocol: chat"], ["chat"]),
        (["Sec-WebSocket-Protocol: b, a ,\tC"], ["b", "a", "C"]),
        (["Sec-WebSocket-Protocol: b", "X-A: 1", "sec-websocket-protocol: a, c"], ["b", "a", "c"]),
    ],
)
def test_w3_subprotocols_are_those_offered_in_their_order(
    serve: Serve, lines: list[str], subprotocols: list[str]
) -> None:
    """ASGI W3: a list of str; RFC 6455 §11.3.4: several fields are one list. Case is kept."""
    assert scope_of(serve, handshake("/", *lines))["subprotocols"] == subprotocols


# ---- W4: nothing before the accept


def test_w4_first_event_is_the_connect(serve: Serve) -> None:
    """ASGI W4: `websocket.connect` during the handshake."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        seen.put(await receive())
        await send({"type": "websocket.close"})

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(handshake())
        assert seen.next() == CONNECT


def test_w4_handshake_is_not_finished_before_the_app_answers(serve: Serve) -> None:
    """ASGI W4: the first byte that the client sees is of the answer that the application gave, a refusal here."""
    seen, go_on = Recorder(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        if scope["type"] == "http":
            await answer(send)
            return
        seen.put(await receive())
        await go_on.wait()
        await send({"type": "websocket.close"})

    server = serve(app)
    with RawClient(server.port) as client, RawClient(server.port) as other:
        client.send(handshake() + text("early"))
        assert seen.next() == CONNECT
        other.send(get())
        other.read_answer()
        server.call(go_on.set)
        assert client.read_exactly(12) == b"HTTP/1.1 403"


@pytest.mark.parametrize("together", [True, False], ids=["in the packet of the handshake", "behind it"])
@pytest.mark.parametrize("waiting", [True, False], ids=["while the app receives", "while it does not"])
def test_w4_early_frames_are_delivered_behind_the_accept_and_not_before(
    serve: Serve, together: bool, waiting: bool
) -> None:
    """ASGI W4: no `websocket.receive` before the accept; a frame that came with the handshake is not lost either."""
    seen, go_on = Recorder(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        if scope["type"] == "http":
            await answer(send)
            return
        seen.put(await receive())
        first = asyncio.ensure_future(receive()) if waiting else None
        await go_on.wait()
        seen.put(first is not None and first.done())
        await send({"type": "websocket.accept"})
        if first is not None:
            seen.put(await first)
        await read_to_disconnect(receive, seen)

    server = serve(app)
    early = text("one") + frame(2, b"\xff") + frame(9, b"ping") + text("two")
    with RawClient(server.port) as client, RawClient(server.port) as other:
        client.send(handshake() + early if together else handshake())
        assert seen.next() == CONNECT
        if not together:
            client.send(early)
        other.send(get())
        other.read_answer()
        server.call(go_on.set)
        assert seen.next() is False
        assert client.read_answer().header(b"sec-websocket-accept") == ACCEPT
        assert [seen.next() for _ in range(3)] == [received("one"), received(b"\xff"), received("two")]
        assert client.read_frame() == (0x8A, b"ping")
        client.send(close(4000))
        assert seen.next() == disconnected(4000)


@pytest.mark.parametrize(
    ("early", "sent", "event"),
    [
        (close(4000, "at once"), (4000, ""), disconnected(4000, "at once")),
        (close(None), (None, ""), disconnected(1005)),
        (frame(1, b"x", key=None), (1002, "unmasked text frame, allowed: masked frames"), None),
    ],
    ids=["Close", "empty Close", "violation"],
)
def test_w4_early_end_takes_effect_behind_the_accept(
    serve: Serve, early: bytes, sent: tuple[int | None, str], event: Event | None
) -> None:
    """ASGI W4, W8: the handshake is finished, what came first is delivered, and then the end is an end as any other."""
    seen = Recorder()
    with RawClient(serve(websocket_watcher(seen)).port) as client:
        client.send(handshake() + text("first") + early)
        assert client.read_answer().status == 101
        assert client.read_close() == sent
        assert client.read_to_end() == b""
        assert seen.next() == received("first")
        assert seen.next() == (event or disconnected(*sent))  # type: ignore[arg-type]  # a violation has a code


def test_w4_large_early_message_is_delivered_whole(serve: Serve) -> None:
    """ASGI W4: also when it is larger than what is read before the accept."""
    seen, go_on = Recorder(), asyncio.Event()
    message = "0123456789" * 50_000

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        seen.put(await receive())
        await go_on.wait()
        await send({"type": "websocket.accept"})
        await read_to_disconnect(receive, seen)

    server = serve(app)
    with RawClient(server.port) as client:
        client.send(handshake())
        assert seen.next() == CONNECT
        client.send(text(message))
        server.call(go_on.set)
        client.send(text("behind") + close())
        assert [seen.next(), seen.next()] == [received(message), received("behind")]


# ---- W6: the accept


def test_w6_headers_of_the_accept_keep_their_order_and_duplicates(serve: Serve) -> None:
    """ASGI W6: the order is kept; names reach the client in lower case."""
    headers = [(b"X-B", b"2"), (b"set-cookie", b"a=1"), (b"x-a", b"1"), (b"set-cookie", b"b=2")]

    async def talk(receive: Receive, send: Send) -> None: ...

    with RawClient(serve(on_websocket(talk, headers=headers)).port) as client:
        answered = client.open_websocket()
        sent = [header for header in answered.headers if header[0] in (b"x-a", b"x-b", b"set-cookie")]
        assert sent == [(name.lower(), value) for name, value in headers]
        assert answered.raw_head.count(b"X-B") == 0


@pytest.mark.parametrize("fields", [{}, {"subprotocol": None, "headers": None}, {"headers": []}])
def test_w6_accept_without_a_subprotocol_names_none(serve: Serve, fields: dict[str, object]) -> None:
    """ASGI W6: `subprotocol` None, or left out; `headers` may be left out, too."""

    async def talk(receive: Receive, send: Send) -> None: ...

    with RawClient(serve(on_websocket(talk, **fields)).port) as client:
        answered = client.open_websocket("/", "Sec-WebSocket-Protocol: chat, superchat")
        assert answered.header(b"sec-websocket-protocol") is None
        assert client.read_close() == (1000, "")


@pytest.mark.parametrize("chosen", ["chat", "superchat"])
def test_w6_subprotocol_of_the_accept_is_sent_once(serve: Serve, chosen: str) -> None:
    """ASGI W6: the subprotocol that the application chose, whichever it is of those offered."""

    async def talk(receive: Receive, send: Send) -> None: ...

    with RawClient(serve(on_websocket(talk, subprotocol=chosen)).port) as client:
        answered = client.open_websocket("/", "Sec-WebSocket-Protocol: chat, superchat")
        assert values(answered, b"sec-websocket-protocol") == [chosen.encode()]


REFUSED_ACCEPTS: dict[str, dict[str, Any]] = {
    "subprotocol that was not offered": {"subprotocol": "other"},
    "subprotocol of another case": {"subprotocol": "CHAT"},
    "empty subprotocol": {"subprotocol": ""},
    "two subprotocols": {"subprotocol": "chat, superchat"},
    "subprotocol with a line end": {"subprotocol": "chat\r\nx-injected: 1"},
    "subprotocol as a header": {"headers": [(b"sec-websocket-protocol", b"chat")]},
    "subprotocol as a header in capitals": {"headers": [(b"Sec-WebSocket-Protocol", b"chat")]},
    "extension as a header": {"headers": [(b"sec-websocket-extensions", b"permessage-deflate")]},
    "another accept": {"headers": [(b"Sec-WebSocket-Accept", b"x-injected")]},
    "another connection": {"headers": [(b"connection", b"close, x-injected")]},
    "another upgrade": {"headers": [(b"upgrade", b"x-injected")]},
    "length": {"headers": [(b"content-length", b"0")]},
    "coding": {"headers": [(b"transfer-encoding", b"chunked")]},
    "pseudo header": {"headers": [(b":status", b"200")]},
    "line end in a value": {"headers": [(b"x-a", b"1\r\nx-injected: 1")]},
    "LF in a value": {"headers": [(b"x-a", b"1\nx-injected: 1")]},
    "line end in a name": {"headers": [(b"x-injected: 1\r\nx-a", b"1")]},
    "end of the head in a value": {"headers": [(b"x-a", b"1\r\n\r\n\x81\x0ax-injected")]},
    "NUL in a value": {"headers": [(b"x-a", b"\0")]},
    "str in a header": {"headers": [("x-a", "1")]},
}


@pytest.mark.parametrize("fields", REFUSED_ACCEPTS.values(), ids=REFUSED_ACCEPTS)
def test_w6_accept_that_cannot_be_sent_raises_and_leaves_the_handshake_open(
    serve: Serve, fields: dict[str, Any]
) -> None:
    """ASGI W6: no subprotocol that the client did not offer (RFC 6455 §4.2.2), no header that is not the application's.

    What raised has not happened: the application may accept again, properly.
    """
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        await receive()
        seen.put(await error_of(send({"type": "websocket.accept", **fields})))
        await send({"type": "websocket.accept", "subprotocol": "chat"})
        await say(send, "open")

    with RawClient(serve(app).port) as client:
        answered = client.open_websocket("/", "Sec-WebSocket-Protocol: chat, superchat")
        assert isinstance(seen.next(), ValueError | TypeError)
        assert values(answered, b"sec-websocket-protocol") == [b"chat"]
        assert b"injected" not in answered.raw_head
        assert client.read_text() == "open"


@pytest.mark.parametrize("fields", list(REFUSED_ACCEPTS.values())[:1] + list(REFUSED_ACCEPTS.values())[-6:])
def test_w6_accept_that_raises_out_of_the_app_gives_500(serve: Serve, fields: dict[str, Any]) -> None:
    """ASGI W6, C6: the fault is the application's, and nothing of what it wanted to inject is sent."""

    async def talk(receive: Receive, send: Send) -> None: ...

    with RawClient(serve(on_websocket(talk, **fields)).port) as client:
        client.send(handshake("/", "Sec-WebSocket-Protocol: chat"))
        sent = client.read_to_end()
        assert sent.startswith(b"HTTP/1.1 500 ")
        assert b"injected" not in sent


# ---- W5, W10: no accept


@pytest.mark.parametrize("fields", [{}, {"code": 4001, "reason": "no"}, {"code": 99, "reason": None}])
def test_w5_w10_close_before_the_accept_gives_403(serve: Serve, fields: dict[str, object]) -> None:
    """ASGI W5, W10: 403 and no handshake, whatever code the application gave; then the connection ends."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.close", **fields})
        seen.put(await receive())
        seen.put(await receive())
        seen.put(await error_of(send({"type": "websocket.accept"})))

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(handshake() + text("early"))
        answered = client.read_answer()
        assert (answered.status, answered.body) == (403, b"")
        assert values(answered, b"connection") == [b"close"]
        assert answered.header(b"sec-websocket-accept") is None
        assert client.read_to_end() == b""
        assert [seen.next(), seen.next()] == [disconnected(1006)] * 2
        assert type(seen.next()) is asgiws.ClientDisconnected


def test_w5_refusal_reaches_a_client_that_is_still_sending(serve: Serve) -> None:
    """ASGI W5: a reset would destroy the 403 on its way, so what still comes is read and thrown away."""

    async def talk(receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.close"})

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(handshake() + frame(2, bytes(4_000_000)))
        assert client.read_answer().status == 403


@pytest.mark.parametrize("asked", [True, False], ids=["behind connect", "at once"])
@pytest.mark.parametrize("raises", [True, False])
def test_app_that_ends_before_the_accept_gives_500(
    serve: Serve, caplog: pytest.LogCaptureFixture, asked: bool, raises: bool
) -> None:
    """ASGI W2, C6: the application is gone, so the handshake cannot be finished; its operator reads why."""

    async def talk(receive: Receive, send: Send) -> None:
        if asked:
            await receive()
        if raises:
            raise ValueError("secret detail")

    server = serve(on_request(talk))
    with RawClient(server.port) as client:
        client.send(handshake())
        answered = client.read_answer()
        assert (answered.status, values(answered, b"connection")) == (500, [b"close"])
        assert b"secret" not in answered.raw_head + answered.body
        assert client.read_to_end() == b""
    server.stop()
    if raises:
        assert_logged_once(caplog, "ValueError")
    else:
        assert len(error_lines(caplog)) == 1


@pytest.mark.parametrize("way", ["reset", "half-close"])
def test_client_that_leaves_before_the_accept_gives_1006_and_accept_raises(
    serve: Serve, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    """ASGI W8, W26: lost before it was open; `send` raises a subclass of OSError, which is no error of anybody."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        for _ in range(3):
            seen.put(await receive())
        seen.put(await error_of(send({"type": "websocket.accept"})))
        seen.put(await error_of(send({"type": "websocket.close"})))
        await send({"type": "websocket.http.response.start", "status": 401, "headers": []})

    server = serve(on_request(talk))
    with RawClient(server.port) as client:
        client.send(handshake())
        assert seen.next() == CONNECT
        client.reset() if way == "reset" else client.half_close()
        assert [seen.next(), seen.next()] == [disconnected(1006)] * 2
        assert [type(seen.next()) for _ in range(2)] == [asgiws.ClientDisconnected] * 2
    server.stop()
    assert error_lines(caplog) == []


@pytest.mark.parametrize("end", ["the client leaves", "the server stops"])
def test_w4_first_event_is_the_connect_also_when_the_end_came_first(serve: Serve, end: str) -> None:
    """ASGI W4: applications rely on it; the disconnect comes second, even if the application was slow to ask."""
    seen, go_on = Recorder(), asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        seen.put("called")
        await go_on.wait()
        seen.put(await receive())
        seen.put(await receive())

    server = serve(on_request(talk))
    with RawClient(server.port) as client:
        client.send(handshake())
        assert seen.next() == "called"
        if end == "the client leaves":
            client.reset()
        else:
            server.begin_stop()
            assert client.read_answer().status == 503
            client.socket.close()
        wait_connections(server, 0)
        server.call(go_on.set)
        assert [seen.next(), seen.next()] == [CONNECT, disconnected(1006)]
