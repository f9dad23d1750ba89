"""ASGI 3.0, the core: applications, scopes, events, and what `send` raises (checklist 4.1)."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

import asgiws
from asgiws.server.asgi import Scope
from tests.apps import Receive, Recorder, Send, echo, refuse_lifespan, say
from tests.asgi.app_help import (
    POST,
    Talk,
    answer,
    assert_logged_once,
    begin_answer,
    body,
    error_lines,
    error_of,
    get,
    on_request,
    on_websocket,
    read_to_disconnect,
    with_lifespan,
)
from tests.conftest import Serve
from tests.raw import RawClient, close, handshake, text


def fault_of(value: object) -> str | None:
    """Say which part of a scope or event has a type that ASGI does not know (ASGI C3)."""
    if isinstance(value, dict):
        if keys := [key for key in value if type(key) is not str]:
            return f"keys {keys!r}"
        return next((f"{key}: {fault}" for key, item in value.items() if (fault := fault_of(item))), None)
    if type(value) in (list, tuple):
        return next((fault for item in value if (fault := fault_of(item))), None)  # type: ignore[attr-defined]  # is one
    if type(value) is float:
        return None if math.isfinite(value) else repr(value)
    if type(value) is int:
        return None if -(2**63) <= value < 2**63 else repr(value)
    return None if value is None or type(value) in (bool, bytes, str) else f"{type(value)} {value!r}"


async def record_everything(scope: Scope, receive: Receive, send: Send, seen: Recorder) -> None:
    seen.put(scope)
    if scope["type"] == "http":
        event = await receive()
        seen.put(event)
        await answer(send, b"done")
        seen.put(await receive())
    else:
        seen.put(await receive())
        await send({"type": "websocket.accept"})
        await read_to_disconnect(receive, seen)
    seen.put(None)


def test_c1_app_is_called_once_per_request_and_once_per_websocket_with_a_dict(serve: Serve) -> None:
    """ASGI C1: `app(scope, receive, send)` once per connection or request; `scope` is a dict with a str `type`."""
    calls = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        calls.put(scope)
        await echo(scope, receive, send)

    server = serve(app)
    with RawClient(server.port) as client:
        for _ in range(2):
            client.send(POST)
            assert client.read_answer().body == b"body"
        client.open_websocket()
        for word in ("one", "two"):
            client.send(text(word))
            assert client.read_text() == word
        client.send(close())
        client.read_to_end()
    server.stop()
    scopes = [calls.next() for _ in range(4)]
    assert calls.empty
    assert [type(scope) for scope in scopes] == [dict] * 4
    assert [scope["type"] for scope in scopes] == ["lifespan", "http", "http", "websocket"]
    assert len({id(scope) for scope in scopes}) == 4


def test_c2_every_scope_names_the_versions_of_asgi(serve: Serve) -> None:
    """ASGI C2, L2: `scope["asgi"]` has `version` and `spec_version`."""
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.put((scope["type"], scope["asgi"]))
        await echo(scope, receive, send)

    with RawClient(serve(app).port) as client:
        client.send(get())
        client.read_answer()
        client.open_websocket()
        assert [seen.next() for _ in range(3)] == [
            ("lifespan", {"version": "3.0", "spec_version": "2.0"}),
            ("http", {"version": "3.0", "spec_version": "2.5"}),
            ("websocket", {"version": "3.0", "spec_version": "2.5"}),
        ]


@pytest.mark.parametrize("payload", ["caf\xe9", b"\x00\xff"])
def test_c3_scopes_and_events_hold_only_the_types_of_asgi(serve: Serve, payload: str | bytes) -> None:
    """ASGI C3: keys are str; values are bytes, str, int, float, list, dict, bool or None, and no subclass of them."""
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await record_everything(scope, receive, send, seen)

    frame = text(payload) if isinstance(payload, str) else b"\x82\x82\0\0\0\0" + payload
    with RawClient(serve(with_lifespan(app, {"a": 1})).port) as client:
        client.send(get("/%C3%A9?q=%20", "Content-Length: 4", "Cookie: a=b", method="POST") + b"body")
        client.read_answer()
        client.open_websocket("/ws?q=1", "Sec-WebSocket-Protocol: a, b", "Sec-WebSocket-Extensions: permessage-deflate")
        client.send(frame + close(4000, "bye"))
        client.read_to_end()
    for kinds in (["http", "http.request", "http.disconnect"],
                  ["websocket", "websocket.connect", "websocket.receive", "websocket.disconnect"]):  # fmt: skip
        items = [seen.next() for _ in kinds]
        assert [item["type"] for item in items] == kinds
        assert [fault_of(item) for item in items] == [None] * len(kinds)
        assert seen.next() is None


# ---- C6 and C8: what comes out of an application


class AppFault(Exception):  # noqa: N818 - what happened
    """What an application in these tests dies of."""


class AppExit(BaseException):
    """The same, beyond `except Exception`."""


@pytest.mark.parametrize("fault", [AppFault, AppExit])
def test_c6_app_that_raises_before_its_response_gives_500_and_ends_its_connection(
    serve: Serve, caplog: pytest.LogCaptureFixture, fault: type[BaseException]
) -> None:
    """ASGI C6: when an error comes out of the application, it and its connection end; no other one does."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        if scope["path"] == "/fault":
            raise fault("secret detail")
        await answer(send, b"fine")

    server = serve(app)
    with RawClient(server.port) as client, RawClient(server.port) as other:
        other.send(get())
        assert other.read_answer().status == 200
        client.send(get("/fault") + get("/never"))
        answered = client.read_answer()
        assert (answered.status, answered.header(b"connection")) == (500, b"close")
        assert b"secret" not in answered.raw_head + answered.body
        assert client.read_to_end() == b""
        other.send(get())
        assert other.read_answer().body == b"fine"
    server.stop()
    assert_logged_once(caplog, fault.__name__)
    assert server.server.counters.app_errors == 1


def test_c6_app_that_raises_in_its_response_ends_the_connection_and_the_response_stays_incomplete(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """ASGI C6: the client must be able to tell; so there is neither a last chunk nor another response."""

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send)
        await body(send, b"begun", more=True)
        raise AppFault

    server = serve(on_request(talk))
    with RawClient(server.port) as client:
        client.send(get() + get("/never"))
        client.read_until(b"\r\n\r\n")
        rest = client.read_to_end()
        assert b"5\r\nbegun\r\n".startswith(rest)
    server.stop()
    assert_logged_once(caplog, "AppFault")


@pytest.mark.parametrize("begun", [False, True], ids=["before its response", "in its response"])
def test_c6_app_that_returns_without_a_whole_response_is_logged_once_and_its_connection_ends(
    serve: Serve, caplog: pytest.LogCaptureFixture, begun: bool
) -> None:
    """ASGI H13, C6: 500 when nothing was sent, else an end that nobody takes for that of the response."""

    async def talk(receive: Receive, send: Send) -> None:
        if begun:
            await begin_answer(send)
            await body(send, b"begun", more=True)

    server = serve(on_request(talk))
    with RawClient(server.port) as client:
        client.send(get() + get("/never"))
        head, _, rest = client.read_to_end().partition(b"\r\n\r\n")
        if begun:
            assert b"5\r\nbegun\r\n".startswith(rest)
        else:
            assert head.startswith(b"HTTP/1.1 500 ")
    server.stop()
    (record,) = error_lines(caplog)
    last = "its last message was http.response.body" if begun else "it sent no message"
    assert record.getMessage() == f"application returned without a whole response ({last}) to GET /"


def test_c6_app_that_raises_on_an_open_websocket_closes_1011_and_ends_the_connection(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """ASGI C6, W2: the connection does not outlive its application."""

    async def talk(receive: Receive, send: Send) -> None:
        await receive()
        raise AppFault("secret detail")

    server = serve(on_websocket(talk))
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(text("x"))
        assert client.read_close() == (1011, "internal error")
        client.send(close(1011))
        assert client.read_to_end() == b""
    server.stop()
    assert_logged_once(caplog, "AppFault")


def sends_on(protocol: str) -> Talk:
    """Give what sends until the client has left."""

    async def send_on(receive: Receive, send: Send) -> None:
        await receive()
        while True:
            if protocol == "http":
                await body(send, b"x", more=True)
            else:
                await say(send, "x")
            await asyncio.sleep(0)

    return send_on


@pytest.mark.parametrize("protocol", ["http", "websocket"])
@pytest.mark.parametrize("in_group", [False, True], ids=["alone", "in a task group"])
def test_c8_error_of_send_that_escapes_the_app_is_ignored(
    serve: Serve, caplog: pytest.LogCaptureFixture, protocol: str, in_group: bool
) -> None:
    """ASGI C8, H22, W26: the server catches what its `send` raised, and does not log it as an error.

    A task group wraps it in an ExceptionGroup; nothing else is wrong with that one.
    """
    seen = Recorder()
    send_on = sends_on(protocol)

    async def talk(receive: Receive, send: Send) -> None:
        if protocol == "http":
            await begin_answer(send)
            await body(send, b"begun", more=True)
        try:
            if in_group:
                async with asyncio.TaskGroup() as group:
                    group.create_task(send_on(receive, send))
            else:
                await send_on(receive, send)
        except Exception as error:
            seen.put(error)
            raise

    server = serve(on_request(talk) if protocol == "http" else on_websocket(talk))
    with RawClient(server.port) as client:
        if protocol == "http":
            client.send(get("/", "Content-Length: 1", method="POST"))
            client.read_until(b"begun")
            client.send(b"x")
        else:
            client.open_websocket()
            client.send(text("x"))
            client.read_text()
        client.reset()
    error = seen.next()
    assert isinstance(error, ExceptionGroup if in_group else asgiws.ClientDisconnected)
    server.stop()
    assert error_lines(caplog) == []
    assert server.server.counters.app_errors == 0


def test_c8_group_with_a_fault_beside_the_error_of_send_is_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """ASGI C8 ends where the application has a fault of its own."""

    async def talk(receive: Receive, send: Send) -> None:
        await receive()
        lost = await error_of(say(send, "x"))
        assert lost is not None
        raise ExceptionGroup("both", [lost, AppFault()])

    server = serve(on_websocket(talk))
    with RawClient(server.port) as client:
        client.open_websocket()
        client.reset()
    server.stop()
    assert_logged_once(caplog, "ExceptionGroup")


@pytest.mark.parametrize("name", ["http", "websocket"])
def test_c9_extensions_are_a_dict_of_dicts(serve: Serve, name: str) -> None:
    """ASGI C9: `scope["extensions"]` holds a dict for each extension."""
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        seen.put(scope["extensions"])
        await echo(scope, receive, send)

    with RawClient(serve(app).port) as client:
        client.send(get("/", "TE: trailers", "Connection: TE") if name == "http" else handshake())
        extensions = seen.next()
        assert type(extensions) is dict
        assert extensions
        assert all(isinstance(value, dict) for value in extensions.values())


def test_c10_app_of_asgi_2_is_told_apart_from_a_client_fault(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """ASGI C10: the double callable of ASGI 2 may be dropped, and is; its operator reads why."""

    def app(scope: Scope) -> Any:
        raise AssertionError("called as an application of ASGI 2")

    server = serve(app, lifespan="off")  # type: ignore[arg-type]  # that it is no ASGIApp is the point
    with RawClient(server.port) as client:
        client.send(get())
        assert client.read_answer().status == 500
    server.stop()
    assert_logged_once(caplog, "TypeError")
    assert "positional argument" in caplog.text
