"""HTTP connections when the server stops: event streams, and clients that keep their connection."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack

import pytest

import asgiws
from asgiws.server.asgi import Scope
from tests import PATIENCE_S
from tests.apps import Receive, Recorder, Send, refuse_lifespan
from tests.asgi.app_help import answer, begin_answer, body, error_lines, error_of, get, on_request
from tests.conftest import RunningServer, Serve
from tests.raw import RawClient

EVENTS = (b"content-type", b"text/event-stream")
GONE = {"type": "http.disconnect"}


class Stops:
    """Stops of servers that have begun, in whatever way the test asks for."""

    def __init__(self) -> None:
        self._begun: list[tuple[RunningServer, Future[None]]] = []

    def begin(self, server: RunningServer, *, replaced: bool = False) -> Future[None]:
        stop = asyncio.run_coroutine_threadsafe(server.server.stop(replaced=replaced), server.loop)
        server.call(lambda: None)  # the stop has begun by then
        self._begun.append((server, stop))
        return stop

    def force(self) -> None:
        for server, _ in self._begun:
            with contextlib.suppress(RuntimeError):
                server.loop.call_soon_threadsafe(server.server.force_stop)


@pytest.fixture
def stops(serve: Serve) -> Iterator[Stops]:
    made = Stops()
    yield made
    made.force()


# ---- event streams


@pytest.mark.parametrize("media_type", [b"text/event-stream", b"Text/Event-Stream; charset=utf-8"])
def test_event_stream_ends_when_the_server_stops(
    serve: Serve, stops: Stops, media_type: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Its client reconnects, to another process; the response ends between two events, and the application learns."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await receive()
        await begin_answer(send, (b"content-type", media_type))
        await body(send, b"data: 1\n\n", more=True)
        seen.put(await receive())
        seen.put(await error_of(body(send, b"data: 2\n\n", more=True)))

    server = serve(on_request(talk), graceful_timeout=600)
    with RawClient(server.port) as client:
        client.send(get())
        client.read_until(b"data: 1\n\n\r\n")
        stop = stops.begin(server)
        assert client.read_to_end() == b"0\r\n\r\n"
        assert seen.next() == GONE
        assert type(seen.next()) is asgiws.ClientDisconnected
        stop.result(PATIENCE_S)
    assert error_lines(caplog) == []


def test_event_stream_without_an_event_yet_is_a_whole_empty_response(serve: Serve, stops: Stops) -> None:
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await receive()
        await begin_answer(send, EVENTS)
        seen.put("waits")
        seen.put(await receive())

    server = serve(on_request(talk), graceful_timeout=600)
    with RawClient(server.port) as client:
        client.send(get())
        assert seen.next() == "waits"
        stop = stops.begin(server)
        answered = client.read_answer()
        assert (answered.status, answered.body, answered.header(b"connection")) == (200, b"", b"close")
        assert client.read_to_end() == b""
        stop.result(PATIENCE_S)


def test_event_stream_to_a_client_that_does_not_read_ends(serve: Serve, stops: Stops) -> None:
    """The application is released from `send`; the connection ends with its close timeout."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send, EVENTS)
        seen.put("sends")
        seen.put(await error_of(body(send, bytes(64 * 2**20), more=True)))

    server = serve(on_request(talk), graceful_timeout=600, write_timeout=0, close_timeout=0.1)
    with RawClient(server.port, receive_buffer=4096) as client:
        client.send(get())
        assert seen.next() == "sends"
        client.read_until(b"\r\n\r\n")
        stop = stops.begin(server)
        assert type(seen.next()) is asgiws.ClientDisconnected
        stop.result(PATIENCE_S)


def test_event_stream_that_begins_while_the_server_stops_ends_at_once(serve: Serve, stops: Stops) -> None:
    """Else a client whose request came late would hold the process for the graceful timeout."""
    seen = Recorder()
    go_on = asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        await receive()
        seen.put("called")
        await go_on.wait()
        seen.put(await error_of(begin_answer(send, EVENTS)))
        seen.put(await error_of(body(send, b"data: 1\n\n", more=True)))

    server = serve(on_request(talk), graceful_timeout=600)
    with RawClient(server.port) as client:
        client.send(get())
        assert seen.next() == "called"
        stop = stops.begin(server)
        server.call(go_on.set)
        assert seen.next() is None
        assert type(seen.next()) is asgiws.ClientDisconnected
        assert client.read_answer().status == 200
        stop.result(PATIENCE_S)


@pytest.mark.parametrize(
    "headers",
    [[EVENTS, (b"content-length", b"8")], [(b"content-type", b"text/plain")]],
    ids=["of known length", "text"],
)
def test_response_with_an_end_is_completed(serve: Serve, stops: Stops, headers: list[tuple[bytes, bytes]]) -> None:
    seen, go_on = Recorder(), asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send, *headers)
        await body(send, b"half", more=True)
        seen.put("half")
        await go_on.wait()
        await body(send, b"done")

    server = serve(on_request(talk), graceful_timeout=600)
    with RawClient(server.port) as client:
        client.send(get())
        assert seen.next() == "half"
        stop = stops.begin(server)
        server.call(go_on.set)
        assert client.read_answer().body == b"halfdone"
        stop.result(PATIENCE_S)


# ---- clients that keep their connection, and a server that is replaced


async def ok(scope: Scope, receive: Receive, send: Send) -> None:
    await refuse_lifespan(scope)
    await answer(send, b"ok")


def ask(client: RawClient) -> bytes | None:
    """Send a request on a kept connection; return the Connection field of its response, which has to come."""
    client.send(get())
    answered = client.read_answer()
    assert (answered.status, answered.body) == (200, b"ok")
    return answered.header(b"connection")


def test_no_request_on_a_kept_connection_is_lost_at_any_phase_of_the_sweep(serve: Serve, stops: Stops) -> None:
    """Clients that pause for a second; each server is replaced 0.1 s later after its sweep than the one before."""
    servers = [serve(ok, graceful_timeout=600) for _ in range(10)]
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(server.port)) for server in servers]
        begun = []
        for server, client in zip(servers, clients, strict=True):
            assert ask(client) is None
            begun.append(stops.begin(server, replaced=True))
            time.sleep(0.1)  # the phase
        for client, stop in zip(clients, begun, strict=True):
            assert ask(client) == b"close"
            assert client.read_to_end() == b""
            stop.result(PATIENCE_S)
            time.sleep(0.1)  # the same pause for each client


def test_client_before_its_proxy_header_has_the_same_time(serve: Serve, stops: Stops) -> None:
    """A connection that was accepted is served, whatever comes before its first request."""
    server = serve(ok, graceful_timeout=600, proxy_protocol=True)
    header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
    with RawClient(server.port) as client:
        with RawClient(server.port) as later:
            later.send(header)
            assert ask(later) is None  # so the first one is accepted too
        stop = stops.begin(server, replaced=True)
        time.sleep(1.1)  # a tick of the sweep has passed since
        client.send(header)
        assert ask(client) == b"close"
        stop.result(PATIENCE_S)


def test_client_that_was_promised_a_kept_connection_may_use_it_once_more(serve: Serve, stops: Stops) -> None:
    """The head of the response was sent before the stop: nothing in it says that the connection ends."""
    seen, go_on = Recorder(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        await begin_answer(send, (b"content-length", b"2"))
        await body(send, b"o", more=True)
        if scope["path"] == "/slow":
            seen.put("begun")
            await go_on.wait()
        await body(send, b"k")

    server = serve(app, graceful_timeout=600)
    with RawClient(server.port) as client:
        client.send(get("/slow"))
        assert seen.next() == "begun"
        stop = stops.begin(server, replaced=True)
        server.call(go_on.set)
        assert client.read_answer().header(b"connection") is None
        assert ask(client) == b"close"
        stop.result(PATIENCE_S)


def test_pipelined_request_does_not_destroy_the_last_response(serve: Serve, stops: Stops) -> None:
    """RFC 9112 §9.6: bytes that arrive after the close would reset the connection before the client has read."""
    seen, go_on = Recorder(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        seen.put("called")
        await go_on.wait()
        await answer(send, bytes(2**22))

    server = serve(app, graceful_timeout=600)
    with RawClient(server.port, receive_buffer=4096) as client:
        client.send(get())
        assert seen.next() == "called"
        client.send(get() * 3)
        stop = stops.begin(server, replaced=True)
        server.call(go_on.set)
        answered = client.read_answer()
        assert (answered.header(b"connection"), len(answered.body)) == (b"close", 2**22)
    stop.result(PATIENCE_S)
