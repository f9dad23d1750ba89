"""ASGI Lifespan 2.0: the end (checklist 4.5, L6 and L7), and what `send` refuses."""

from __future__ import annotations

import asyncio

import pytest

from asgiws.server.asgi import Event, Scope
from tests import PATIENCE_S
from tests.apps import Receive, Recorder, Send, accept
from tests.asgi.app_help import answer, assert_logged_once, disconnected, error_lines, error_of, get
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
from tests.raw import RawClient, close

# ---- L6, L7: the end


def test_l6_shutdown_comes_when_nothing_is_accepted_and_all_connections_have_ended(
    serve: Serve, free_port: int
) -> None:
    """ASGI L6: after accepting has stopped and all connections have closed, with the open requests answered."""
    seen, go_on = Recorder(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send(COMPLETE)
            seen.put(await receive())
            seen.put(await accepts_connections(free_port))
            await send(ENDED)
        elif scope["type"] == "http":
            seen.put("request")
            await go_on.wait()
            await answer(send, b"answered")
            seen.put("answered")
        else:
            await accept(scope, receive, send)
            seen.put(await receive())
            await go_on.wait()
            seen.put("websocket ended")

    server = serve(app, port=free_port, graceful_timeout=PATIENCE_S)
    with RawClient(server.port) as client, RawClient(server.port) as websocket:
        client.send(get())
        assert seen.next() == "request"
        websocket.open_websocket()
        server.begin_stop()
        assert websocket.read_close()[0] == 1012
        websocket.send(close(1012))
        assert seen.next() == disconnected(1012, "service restart")
        assert websocket.read_to_end() == b""
        assert seen.empty
        server.call(go_on.set)
        assert client.read_answer().body == b"answered"
        events = [seen.next() for _ in range(4)]
        assert sorted(events[:2]) == ["answered", "websocket ended"]
        assert events[2:] == [SHUTDOWN, False]


def test_l6_shutdown_comes_behind_applications_that_had_to_be_cancelled(serve: Serve) -> None:
    """ASGI L6: nothing that the shutdown takes away is taken from an application that still runs."""
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send(COMPLETE)
            seen.put(await receive())
            await send(ENDED)
            return
        seen.put("called")
        try:
            await asyncio.Event().wait()
        finally:
            await turn_the_loop()
            seen.put("cancelled")

    server = serve(app, graceful_timeout=0.2)
    with RawClient(server.port) as client:
        client.send(get())
        assert seen.next() == "called"
        server.stop()
        assert [seen.next(), seen.next()] == ["cancelled", SHUTDOWN]


def test_l6_server_ends_when_shutdown_is_complete_and_not_before(loop_name: str) -> None:
    """ASGI L6: the server must wait for `shutdown.complete`; it does not wait for the application to return."""
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(COMPLETE)
        await receive()
        await turn_the_loop()
        seen.put("complete")
        await send(ENDED)
        try:
            await asyncio.Event().wait()
        finally:
            seen.put("ended")

    assert serve_once(loop_name, app) == []
    assert [seen.next(), seen.next()] == ["complete", "ended"]


@pytest.mark.parametrize("fields", [{"message": "disk\nfull"}, {}])
def test_l7_shutdown_failed_is_logged_and_the_server_ends(
    serve: Serve, caplog: pytest.LogCaptureFixture, fields: dict[str, str]
) -> None:
    """ASGI L7: log the message and terminate."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(COMPLETE)
        await receive()
        await send({"type": "lifespan.shutdown.failed", **fields})

    serve(app).stop()
    (record,) = error_lines(caplog)
    assert record.getMessage() == "application shutdown failed: " + ("disk\\nfull" if fields else "")


def test_shutdown_that_is_not_answered_is_logged_and_the_server_ends(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """ASGI L6 within bounds: the application is cancelled after the time that a graceful stop may take."""
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(COMPLETE)
        await receive()
        try:
            await asyncio.Event().wait()
        finally:
            seen.put("cancelled")

    serve(app, graceful_timeout=0.2).stop()
    assert seen.next() == "cancelled"
    assert [record.getMessage() for record in error_lines(caplog)] == [
        "application did not answer lifespan.shutdown within 0.2 s"
    ]


@pytest.mark.slow
def test_connections_and_shutdown_share_the_time_of_a_stop(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """A connection that takes all of it leaves a second to the shutdown; were it ten times as long, this would fail."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send(COMPLETE)
            await receive()
        else:
            await accept(scope, receive, send)
        await asyncio.Event().wait()

    server = serve(app, graceful_timeout=PATIENCE_S / 8, close_timeout=PATIENCE_S)
    with RawClient(server.port) as client:
        client.open_websocket()
        server.stop()  # waits for PATIENCE_S at most
    assert [record.getMessage() for record in error_lines(caplog)] == [
        "1 WebSocket did not end within 2.5 s, ending now: /",
        "application did not answer lifespan.shutdown within 1 s",
    ]


def test_app_that_raises_in_its_shutdown_is_logged_once_and_the_server_ends(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """ASGI L6, C6: an error is an answer, too."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(COMPLETE)
        await receive()
        raise ValueError("in the shutdown")

    serve(app, graceful_timeout=0.5).stop()
    assert_logged_once(caplog, "ValueError")


@pytest.mark.parametrize("raises", [False, True])
def test_app_whose_lifespan_ends_early_is_served_and_not_waited_for(
    serve: Serve, caplog: pytest.LogCaptureFixture, raises: bool
) -> None:
    """ASGI L6: nobody is left to answer a shutdown, so none is waited for."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await answer(send)
            return
        await receive()
        await send(COMPLETE)
        if raises:
            raise ValueError("behind the startup")

    server = serve(app, graceful_timeout=0.5)
    with RawClient(server.port) as client:
        client.send(get())
        assert client.read_answer().status == 200
    server.stop()
    if raises:
        assert_logged_once(caplog, "ValueError")
    else:
        assert error_lines(caplog) == []


# ---- C4: what send takes

EARLY: dict[str, Event] = {
    "unknown type": {"type": "lifespan.startup.done"},
    "shutdown before it was asked for": ENDED,
    "failed shutdown before it was asked for": {"type": "lifespan.shutdown.failed"},
    "message of another protocol": {"type": "http.response.start", "status": 200},
    "no type": {},
}


@pytest.mark.parametrize("event", EARLY.values(), ids=EARLY)
@pytest.mark.parametrize("when", ["before the startup", "behind it"])
def test_c4_invalid_lifespan_event_raises_out_of_send(serve: Serve, event: Event, when: str) -> None:
    """ASGI C4: what raised has not happened; the application starts and stops all the same."""
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if when == "before the startup":
            seen.put(await error_of(send(event)))
        await send({**COMPLETE, "unknown key": 1})
        if when != "before the startup":
            seen.put(await error_of(send(event)))
            seen.put(await error_of(send(COMPLETE)))
        seen.put(await receive())
        await send(ENDED)

    server = serve(app)
    assert isinstance(seen.next(), RuntimeError | KeyError)
    if when != "before the startup":
        assert isinstance(seen.next(), RuntimeError)
    server.stop()
    assert seen.next() == SHUTDOWN


def test_lifespan_that_receives_twice_gets_the_shutdown_at_the_shutdown_only(serve: Serve) -> None:
    """ASGI L4, L6: one startup, one shutdown; a `receive` between them waits."""
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.put(await receive())
        second = asyncio.ensure_future(receive())
        await send(COMPLETE)
        seen.put(second.done())
        seen.put(await second)
        await send(ENDED)

    server = serve(app)
    assert [seen.next(), seen.next()] == [STARTUP, False]
    assert seen.empty
    server.stop()
    assert seen.next() == SHUTDOWN
