"""ASGI Lifespan 2.0: the call, the start and the state (checklist 4.5, L1 to L5 and L8).

What the command line makes of a start that failed is tested with the processes.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest

from asgiws.server.asgi import ASGIApp, Scope
from asgiws.server.lifespan import StartupFailed
from tests.apps import Receive, Recorder, Send, echo
from tests.asgi.app_help import (
    answer,
    assert_logged_once,
    error_lines,
    get,
    with_lifespan,
)
from tests.asgi.lifespan_help import (
    COMPLETE,
    ENDED,
    SHUTDOWN,
    STARTUP,
    accepts_connections,
    serve_once,
    turn_the_loop,
)
from tests.conftest import Serve
from tests.raw import RawClient, close, handshake


def failure_of(loop_name: str, app: ASGIApp, **options: object) -> str:
    """Give the message of a start that failed, having checked that nothing runs on."""
    left: list[str] = []
    with pytest.raises(StartupFailed) as caught:
        left = serve_once(loop_name, app, **options)
    assert left == []
    return str(caught.value)


# ---- L1, L2, L8: the call


def test_l1_lifespan_runs_once_and_on_the_loop_of_the_requests(serve: Serve) -> None:
    """ASGI L1: once per event loop that serves requests, and on that loop."""
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.put((scope["type"], id(asyncio.get_running_loop()), threading.get_ident()))
        await with_lifespan(echo, {})(scope, receive, send)

    server = serve(app)
    with RawClient(server.port) as client:
        client.send(get())
        client.read_answer()
        client.open_websocket()
        client.send(close())
        client.read_to_end()
    server.stop()
    lifespan, request, websocket = (seen.next() for _ in range(3))
    assert [lifespan[0], request[0], websocket[0]] == ["lifespan", "http", "websocket"]
    assert lifespan[1:] == request[1:] == websocket[1:]
    assert seen.empty


def test_l2_scope_and_events_are_those_of_the_specification(serve: Serve) -> None:
    """ASGI L2, L4, L6: the scope with its versions and an empty `state`; the two events have a type only."""
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.put(scope)
        seen.put(await receive())
        await send(COMPLETE)
        seen.put(await receive())
        await send(ENDED)

    server = serve(app)
    assert seen.next() == {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    assert seen.next() == STARTUP
    server.stop()
    assert seen.next() == SHUTDOWN


@pytest.mark.parametrize("protocol", ["http", "websocket"])
def test_l8_state_is_what_the_app_has_put_there_by_the_time_of_the_request(serve: Serve, protocol: str) -> None:
    """ASGI L8: a copy of the state as it is, not as it was; the server never touches its content."""
    seen = Recorder()

    class Untouchable:
        def __copy__(self) -> object:
            raise AssertionError("copied")

        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared")

        __hash__ = None  # type: ignore[assignment]  # so that hashing it raises

    thing = Untouchable()
    lifespan_state: dict[str, Any] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            nonlocal lifespan_state
            lifespan_state = scope["state"]
            scope["state"]["thing"] = thing
            await receive()
            await send(COMPLETE)
            await receive()
            await send(ENDED)
            return
        seen.put(scope["state"])
        scope["state"]["of the request"] = True
        lifespan_state["later"] = "added"
        await (answer(send) if protocol == "http" else send({"type": "websocket.close"}))

    server = serve(app)
    for keys in (["thing"], ["thing", "later"]):
        with RawClient(server.port) as client:
            client.send(get() if protocol == "http" else handshake())
            state = seen.next()
            client.read_answer()
        assert [key for key in state if key != "of the request"] == keys
        assert state["thing"] is thing
        assert state is not lifespan_state
    assert list(lifespan_state) == ["thing", "later"]


# ---- L4: the start


def test_l4_no_connection_is_accepted_before_startup_is_complete(serve: Serve, free_port: int) -> None:
    """ASGI L4: the application starts before anybody can connect."""
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        seen.put(await accepts_connections(free_port))
        await send(COMPLETE)
        await receive()
        await send(ENDED)

    with RawClient(serve(app, port=free_port).port) as client:
        assert seen.next() is False
        assert client.socket.getpeername()[1] == free_port


def test_l4_request_that_waits_in_an_inherited_socket_is_served_behind_the_startup(serve: Serve) -> None:
    """ASGI L4: the kernel takes connections for a listener that was open before; the application starts first."""
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.put(scope["type"])
        if scope["type"] == "lifespan":
            await receive()
            await turn_the_loop()
            seen.put("complete")
            await send(COMPLETE)
            await receive()
            await send(ENDED)
        else:
            await answer(send, b"served")

    listener = socket.create_server(("127.0.0.1", 0))
    with RawClient(listener.getsockname()[1]) as client:
        client.send(get())
        serve(app, fd=listener.detach())
        assert client.read_answer().body == b"served"
        assert [seen.next() for _ in range(3)] == ["lifespan", "complete", "http"]


# ---- L3: applications without a lifespan


async def raises_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        raise NotImplementedError("no lifespan")
    await echo(scope, receive, send)


async def returns_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "lifespan":
        await echo(scope, receive, send)


async def raises_in_its_startup(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        assert await receive() == STARTUP
        raise ConnectionError("no database")
    await echo(scope, receive, send)


async def returns_in_its_startup(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await receive()
    else:
        await echo(scope, receive, send)


async def exits_in_its_startup(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        raise asyncio.CancelledError
    await echo(scope, receive, send)


WITHOUT = [raises_at_once, returns_at_once, raises_in_its_startup, returns_in_its_startup, exits_in_its_startup]


@pytest.mark.parametrize("app", WITHOUT)
def test_l3_app_that_has_no_lifespan_is_served_without(
    serve: Serve, caplog: pytest.LogCaptureFixture, app: ASGIApp
) -> None:
    """ASGI L3: the server must continue; what was raised in the startup is logged, for it may be a fault."""
    seen = Recorder()

    async def recorded(scope: Scope, receive: Receive, send: Send) -> None:
        seen.put((scope["type"], "state" in scope))
        await app(scope, receive, send)

    server = serve(recorded)
    with RawClient(server.port) as client:
        client.send(get())
        assert client.read_answer().status == 200
    server.stop()
    assert [seen.next(), seen.next()] == [("lifespan", True), ("http", False)]
    assert seen.empty
    if app is raises_in_its_startup:
        assert_logged_once(caplog, "ConnectionError")
    else:
        assert error_lines(caplog) == []


@pytest.mark.parametrize("app", WITHOUT)
def test_lifespan_on_does_not_serve_an_app_that_has_none(loop_name: str, app: ASGIApp) -> None:
    """`--lifespan on`: an application that has no lifespan, or cannot start, is a failure."""
    message = failure_of(loop_name, app, lifespan="on")
    assert message == (
        "application raised in its startup"
        if app is raises_in_its_startup
        else "application has no lifespan, and --lifespan on asks for one"
    )


def test_lifespan_on_serves_an_app_that_has_one(serve: Serve) -> None:
    """`--lifespan on` changes nothing for an application that does as it should."""
    with RawClient(serve(with_lifespan(echo, {}), lifespan="on").port) as client:
        client.send(get())
        assert client.read_answer().status == 200


def test_lifespan_off_never_calls_the_app_for_it(serve: Serve) -> None:
    """`--lifespan off`: no scope of that type, and no `state` in the others."""
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.put((scope["type"], "state" in scope))
        await answer(send)

    server = serve(app, lifespan="off")
    with RawClient(server.port) as client:
        client.send(get())
        client.read_answer()
    server.stop()
    assert seen.next() == ("http", False)
    assert seen.empty


# ---- L5: the start that fails


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"message": "no database"}, "application startup failed: no database"),
        ({"message": "two\nlines \x1b[31m"}, "application startup failed: two\nlines \\x1b[31m"),
        ({}, "application startup failed"),
        ({"message": ""}, "application startup failed"),
    ],
    ids=["message", "control characters", "no message", "empty message"],
)
@pytest.mark.parametrize("then", ["returns", "raises", "receives"])
@pytest.mark.parametrize("mode", ["auto", "on"])
def test_l5_startup_failed_is_the_end_with_the_message_of_the_app(
    loop_name: str, free_port: int, fields: dict[str, object], message: str, then: str, mode: str
) -> None:
    """ASGI L5: the server says what the application said and exits, whatever that does behind it."""
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await send({"type": "lifespan.startup.failed", **fields})
            if then == "raises":
                raise ValueError("behind the failure")
            if then == "receives":
                await receive()
        finally:
            seen.put("ended")

    assert failure_of(loop_name, app, lifespan=mode, port=free_port).rstrip(": ") == message
    assert seen.next() == "ended"
    with pytest.raises(ConnectionRefusedError):
        RawClient(free_port)
