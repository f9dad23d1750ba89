"""Applications for the tests of ASGI: what makes one from a few lines, and what tells the test how a call ended."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from time import monotonic
from typing import Any

import pytest

import asgiws
from asgiws.server.asgi import ASGIApp, Event, Scope
from tests import PATIENCE_S
from tests.apps import Receive, Recorder, Send, accept, refuse_lifespan
from tests.conftest import RunningServer
from tests.raw import Answer

NEVER_S = 10 * PATIENCE_S
"""A deadline that no test lives to see."""

Talk = Callable[[Receive, Send], Coroutine[Any, Any, None]]


def on_request(talk: Talk) -> ASGIApp:
    """Make an application without a lifespan that does not care for its scope."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        await talk(receive, send)

    return app


def on_websocket(talk: Talk, **answer: object) -> ASGIApp:
    """Make an application that accepts each WebSocket, with what `answer` adds, and then talks."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send, **answer)
        await talk(receive, send)

    return app


def with_lifespan(app: ASGIApp, state: dict[str, object]) -> ASGIApp:
    """Give an application a lifespan that puts `state` in place and does nothing else."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        scope["state"].update(state)
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    return wrapped


def get(path: str = "/", *extra: str, method: str = "GET", version: str = "1.1") -> bytes:
    """A request head, with extra header lines."""
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: localhost", *extra, "", ""]).encode("latin-1")


POST = get("/", "Content-Length: 4", method="POST") + b"body"


async def begin_answer(send: Send, *headers: tuple[bytes, bytes], status: int = 200, **more: object) -> None:
    """Send the head of a response."""
    await send({"type": "http.response.start", "status": status, "headers": list(headers), **more})


async def body(send: Send, data: bytes = b"", *, more: bool = False) -> None:
    """Send a piece of the body of a response, the last one unless there is more."""
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def answer(send: Send, data: bytes = b"", *headers: tuple[bytes, bytes], status: int = 200) -> None:
    """Send a whole response, with its length unless `headers` say how it is framed."""
    await begin_answer(send, *headers or [(b"content-length", b"%d" % len(data))], status=status)
    await body(send, data)


async def error_of(call: Awaitable[object]) -> Exception | None:
    """Give what a call raises; None when it succeeds."""
    try:
        await call
    except Exception as error:
        return error
    return None


async def read_to_disconnect(receive: Receive, seen: Recorder) -> None:
    """Tell `seen` every event, up to the disconnect."""
    while True:
        event = await receive()
        seen.put(event)
        if event["type"].endswith(".disconnect"):
            return


def websocket_watcher(seen: Recorder, **answer_fields: object) -> ASGIApp:
    """Make an application that writes down every event, the one after the last, and what a later send raises."""

    async def talk(receive: Receive, send: Send) -> None:
        await read_to_disconnect(receive, seen)
        seen.put(await receive())
        seen.put(await error_of(send({"type": "websocket.send", "text": "too late"})))

    return on_websocket(talk, **answer_fields)


def received(message: str | bytes) -> Event:
    """The event of one message."""
    return {"type": "websocket.receive", "text" if isinstance(message, str) else "bytes": message}


def disconnected(code: int, reason: str = "") -> Event:
    """The event of the end of a WebSocket."""
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


def values(answered: Answer, name: bytes) -> list[bytes]:
    """All values of a field, in order."""
    return [value for key, value in answered.headers if key == name]


def names(headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    return [name for name, _ in headers]


def wait_connections(server: RunningServer, count: int) -> None:
    """Turn the server's loop until it has this many connections."""
    deadline = monotonic() + PATIENCE_S
    while server.call(lambda: server.server.connection_count) != count:
        assert monotonic() < deadline, f"{server.server.connection_count} connections, not {count}"


def error_lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


def assert_logged_once(caplog: pytest.LogCaptureFixture, name: str) -> None:
    """One line, with the traceback of the error of that name."""
    (record,) = error_lines(caplog)
    assert record.exc_info is not None
    assert record.exc_info[0] is not None
    assert record.exc_info[0].__name__ == name
    assert record.exc_info[2] is not None


def assert_app_saw(seen: Recorder, event: Event) -> None:
    """What `websocket_watcher` wrote: the disconnect, the same again, and the error of a later send."""
    assert [seen.next(), seen.next()] == [event, event]
    assert type(seen.next()) is asgiws.ClientDisconnected
