"""After each fault of a client or an application the next client is served, and nothing is left behind.

That nothing is left (tasks, connections, exceptions nobody handled) is checked by the fixture `serve` when a test ends.
"""

from __future__ import annotations

import asyncio
import re
import resource
import threading
from collections.abc import Callable

import pytest

from asgiws.server.asgi import ASGIApp, Scope
from tests.apps import Receive, Recorder, Send, echo, refuse_lifespan
from tests.conftest import RunningServer, Serve
from tests.raw import RawClient, close, frame, handshake, text
from tests.server_process import Start


def serves(server: RunningServer, path: str = "/") -> bool:
    with RawClient(server.port) as client:
        client.open_websocket(path)
        client.send(text("next"))
        answered = client.read_text() == "next"
        client.send(close())
        client.read_to_end()
        return answered


class Witness:
    """Echoes, and writes down how each application ended: its events that are not messages, and what `send` raised."""

    def __init__(self) -> None:
        self.ends = Recorder()
        self.began = Recorder()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        if scope["path"] == "/":
            await echo(scope, receive, send)
            return
        seen: list[object] = []
        self.began.put(scope["path"])
        try:
            await receive()
            if scope["path"] != "/undecided":
                await send({"type": "websocket.accept"})
            if scope["path"] == "/talking":
                while True:
                    await send({"type": "websocket.send", "bytes": bytes(100000)})
            if scope["path"] == "/closing":
                await send({"type": "websocket.close", "code": 4001, "reason": "enough"})
            while (event := await receive())["type"] != "websocket.disconnect":
                pass
            seen.append((event["code"], event["reason"]))
            again = await receive()
            assert again == event, "the disconnect event changed"
        except OSError as error:
            seen.append(type(error).__name__)
            event = await receive()
            seen.append((event["code"], event["reason"]))
        self.ends.put(seen)


def reset_in_head(client: RawClient) -> None:
    client.send(b"GET / HTTP/1.1\r\nHo")


def reset_before_accept(client: RawClient) -> None:
    client.send(handshake("/undecided"))


def reset_after_accept(client: RawClient) -> None:
    client.open_websocket("/listening")


def reset_in_frame(client: RawClient) -> None:
    client.open_websocket("/listening")
    client.send(frame(2, b"x" * 1000)[:500])


def reset_in_fragments(client: RawClient) -> None:
    client.open_websocket("/listening")
    client.send(frame(1, b"x", fin=False) + frame(0, b"y", fin=False))


def reset_while_sending(client: RawClient) -> None:
    client.open_websocket("/talking")
    client.read_exactly(10)


def reset_in_closing(client: RawClient) -> None:
    client.open_websocket("/closing")
    client.read_close()


@pytest.mark.parametrize(
    ("stage", "end"),
    [
        (reset_before_accept, [(1006, "")]),
        (reset_after_accept, [(1006, "")]),
        (reset_in_frame, [(1006, "")]),
        (reset_in_fragments, [(1006, "")]),
        (reset_while_sending, ["ClientDisconnected", (1006, "")]),
        (reset_in_closing, [(4001, "enough")]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_reset_at_any_stage_ends_the_application_once(
    serve: Serve, stage: Callable[[RawClient], None], end: list[object]
) -> None:
    witness = Witness()
    server = serve(witness)
    client = RawClient(server.port)
    stage(client)
    witness.began.next()
    client.reset()
    assert witness.ends.next() == end
    assert serves(server)
    assert witness.ends.empty


def test_reset_inside_a_head_leaves_nothing(serve: Serve) -> None:
    server = serve(echo)
    client = RawClient(server.port)
    reset_in_head(client)
    client.reset()
    assert serves(server)


@pytest.mark.parametrize("path", ["/listening", "/talking"])
def test_half_closed_websocket_is_gone(serve: Serve, path: str) -> None:
    """RFC 6455 §7.1.5: without a Close frame the connection was lost, 1006."""
    witness = Witness()
    server = serve(witness)
    with RawClient(server.port) as client:
        client.open_websocket(path)
        client.half_close()
        client.read_to_end()
    assert witness.ends.next()[-1] == (1006, "")
    assert serves(server)


class Unruly(BaseException):
    """What no server expects."""


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1), KeyboardInterrupt(), Unruly()])
@pytest.mark.parametrize("when", ["before", "after"])
def test_application_may_raise_anything(serve: Serve, error: BaseException, when: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        if scope["path"] == "/":
            await echo(scope, receive, send)
            return
        await receive()
        if when == "after":
            await send({"type": "websocket.accept"})
        raise error

    server = serve(app)
    with RawClient(server.port) as client:
        client.send(handshake("/raise"))
        if when == "before":
            assert client.read_answer().status == 500
        else:
            assert client.read_answer().status == 101
            assert client.read_close() == (1011, "internal error")
    assert serves(server)


def test_application_that_blocks_the_loop_delays_but_loses_nothing(serve: Serve) -> None:
    release = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/block":
            release.wait(10)
        await echo(scope, receive, send)

    server = serve(app)
    with RawClient(server.port) as client, RawClient(server.port) as blocker:
        client.open_websocket()
        blocker.send(handshake("/block"))
        for number in range(10):
            client.send(text(str(number)))
        release.set()
        assert [client.read_text() for _ in range(10)] == [str(number) for number in range(10)]


@pytest.mark.parametrize(
    "message",
    [
        {"type": "websocket.send"},
        {"type": "websocket.send", "text": "a", "bytes": b"b"},
        {"type": "websocket.send", "text": 5},
        {"type": "websocket.send", "text": b"bytes"},
        {"type": "websocket.send", "bytes": "text"},
        {"type": "websocket.accept"},
        {"type": "websocket.close", "code": 1005},
        {"type": "websocket.close", "code": 999},
        {"type": "websocket.close", "code": 1015},
        {"type": "websocket.close", "code": "1000"},
        {"type": "websocket.close", "reason": "x" * 124},
        {"type": "http.response.body", "body": b""},
        {"type": "no.such.event"},
        {},
    ],
    ids=str,
)
def test_illegal_event_raises_and_the_connection_goes_on(serve: Serve, message: dict[str, object]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        await receive()
        await send({"type": "websocket.accept"})
        try:
            await send(message)
        except OSError:
            await send({"type": "websocket.send", "text": "the wrong error"})
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            await send({"type": "websocket.send", "text": type(error).__name__})
        await receive()

    server = serve(app)
    with RawClient(server.port) as client:
        client.open_websocket()
        assert client.read_text() in ("RuntimeError", "ValueError", "TypeError", "KeyError")
        client.send(close())
        assert client.read_close() == (1000, "")


def test_several_tasks_receive_and_send_at_once(serve: Serve) -> None:
    """Each message goes to one task, none is lost, and all learn of the end."""
    ended = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        await receive()
        await send({"type": "websocket.accept"})

        async def work() -> int:
            while (event := await receive())["type"] == "websocket.receive":
                await asyncio.gather(*(send({"type": "websocket.send", "text": event["text"]}) for _ in range(2)))
            return int(event["code"])

        ended.put(await asyncio.gather(*(work() for _ in range(5))))

    server = serve(app)
    with RawClient(server.port) as client:
        client.open_websocket()
        for number in range(200):
            client.send(text(str(number)))
        echoed = sorted(int(client.read_text()) for _ in range(400))
        assert echoed == sorted([*range(200), *range(200)])
        client.send(close(1001))
        client.read_close()
    assert ended.next() == [1001] * 5


def test_cancelled_receive_loses_no_message(serve: Serve) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            try:
                event = await asyncio.wait_for(receive(), 0.001)
            except TimeoutError:
                continue
            if event["type"] == "websocket.disconnect":
                return
            await send({"type": "websocket.send", "text": event["text"]})

    server = serve(app)
    with RawClient(server.port) as client:
        client.open_websocket()
        for number in range(100):
            client.send(text(str(number)))
            assert client.read_text() == str(number)


@pytest.mark.promise
@pytest.mark.slow
def test_running_out_of_descriptors_is_survived_and_logged_once(start: Start) -> None:
    process = start("tests.apps:echo", "--no-access-log")
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (48, 48))
    clients = [RawClient(process.port) for _ in range(80)]
    process.wait_stderr(r"cannot accept connections: Too many open files")
    for client in clients:
        client.socket.close()
    process.wait_stderr(r"accepting connections again")
    with RawClient(process.port) as client:
        client.open_websocket()
    complaints = [line for line in process.stderr + process.rest_of_stderr() if re.search("cannot accept", line)]
    assert len(complaints) <= 3, "a line each time the accept began anew, not each time it failed"


def test_every_application_type_is_an_asgi_application() -> None:
    """The helpers above are what the fixture takes."""
    app: ASGIApp = Witness()
    assert callable(app)
