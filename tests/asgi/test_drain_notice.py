"""The application learns of a drain before the Close: `asgiws.draining`, the extension `websocket.drain`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import asgiws
from asgiws.server.asgi import Scope
from asgiws.server.bulk_close import BulkClose
from tests import PATIENCE_S
from tests.apps import Receive, Recorder, Send, accept, refuse_lifespan, say
from tests.conftest import RunningServer, Serve
from tests.docs import ROOT
from tests.raw import RawClient, close, handshake, text

NEVER_S = 600
LONG: dict[str, Any] = {"drain_notice": NEVER_S, "graceful_timeout": 2 * NEVER_S}
SUBSCRIBE = {"type": "websocket.drain.subscribe"}


class Watcher:
    """An application that echoes, and puts down what `draining` returned."""

    def __init__(self) -> None:
        self.seen = Recorder()
        self.accepts: asyncio.Event | None = None
        """What an application at /late waits for."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        watching = asyncio.create_task(self._watch(scope))
        if scope["path"] == "/late":
            self.accepts = asyncio.Event()
            self.seen.put("connect")
            await self.accepts.wait()
        await accept(scope, receive, send)
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})
        await watching
        self.seen.put((event["type"], event["code"]))

    async def _watch(self, scope: Scope) -> None:
        self.seen.put(await asgiws.draining(scope))


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    """Clients that end with the test."""
    with ExitStack() as stack:
        yield stack


def connect(server: RunningServer, clients: ExitStack, path: str = "/") -> RawClient:
    client = clients.enter_context(RawClient(server.port))
    client.open_websocket(path)
    return client


def echoes(client: RawClient) -> bool:
    """Whether an echo comes back, and not a Close."""
    client.send(text("there?"))
    return client.read_frame() == (0x81, b"there?")


def stop_waiting(server: RunningServer) -> None:
    """Do as the second signal does."""
    server.call(server.server.force_stop)


# ---- a stop


def test_application_learns_of_the_stop_and_goes_on_until_the_close(serve: Serve, clients: ExitStack) -> None:
    app = Watcher()
    server = serve(app, **LONG)
    client = connect(server, clients)
    server.begin_stop()
    assert app.seen.next() is True
    assert echoes(client)
    stop_waiting(server)  # a forced stop sends the Close at once
    assert client.read_close() == (1012, "service restart")
    assert client.read_to_end() == b""


def test_close_follows_the_notice(serve: Serve, clients: ExitStack) -> None:
    app = Watcher()
    server = serve(app, drain_notice=0.1, graceful_timeout=NEVER_S)
    client = connect(server, clients)
    server.begin_stop()
    client.be_closed(1012, "service restart")
    assert [app.seen.next(), app.seen.next()] == [True, ("websocket.disconnect", 1012)]
    server.stop()
    assert server.server.counters.drain_notices == 1


def test_without_the_option_the_drain_begins_with_the_close(serve: Serve, clients: ExitStack) -> None:
    app = Watcher()
    server = serve(app)
    client = connect(server, clients)
    server.begin_stop()
    client.be_closed(1012, "service restart")
    assert [app.seen.next(), app.seen.next()] == [True, ("websocket.disconnect", 1012)]
    assert server.server.counters.drain_notices == 0


def test_each_application_learns_of_it_in_its_turn(serve: Serve, clients: ExitStack) -> None:
    app = Watcher()
    server = serve(app, drain_notice=NEVER_S, drain_spread=NEVER_S, graceful_timeout=2 * NEVER_S)
    all_clients = [connect(server, clients) for _ in range(3)]
    server.begin_stop()
    assert app.seen.next() is True
    assert all(map(echoes, all_clients))
    assert app.seen.empty, "two of them wait for their turn"
    stop_waiting(server)
    for client in all_clients:
        assert client.read_close() == (1012, "service restart")


def test_stop_ends_as_soon_as_the_applications_have_closed(serve: Serve, clients: ExitStack) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send)
        if await asgiws.draining(scope):
            await send({"type": "websocket.close", "code": 4000, "reason": "moved"})

    server = serve(app, **LONG)
    all_clients = [connect(server, clients) for _ in range(3)]
    server.begin_stop()
    for client in all_clients:
        client.be_closed(4000, "moved")
    server.stop()


def test_notice_ends_with_the_graceful_timeout(serve: Serve, clients: ExitStack) -> None:
    """A socket that is accepted at the end of a drain has what is left."""
    app = Watcher()
    server = serve(app, drain_notice=0.3, graceful_timeout=0.3, close_timeout=NEVER_S)
    client = connect(server, clients)
    server.begin_stop()
    assert client.read_close() == (1012, "service restart")


def test_close_of_a_stop_asks_each_client_to_return_at_a_time_of_its_own(serve: Serve, clients: ExitStack) -> None:
    """--retry-hint: whole seconds, from 1 to the window."""
    server = serve(Watcher(), retry_hint=NEVER_S)
    all_clients = [connect(server, clients) for _ in range(20)]
    server.begin_stop()
    found = set()
    for client in all_clients:
        code, reason = client.read_close()
        hint = re.fullmatch(r"service restart retry-after=(\d+)", reason)
        assert code == 1012
        assert hint is not None
        found.add(int(hint[1]))
    assert len(found) > 1
    assert min(found) >= 1
    assert max(found) <= NEVER_S


def test_operator_chooses_the_whole_reason(serve: Serve, clients: ExitStack) -> None:
    server = serve(Watcher(), retry_hint=10)
    client = connect(server, clients)
    close_all(server)
    client.be_closed(4001, "moved")


# ---- a socket that is opened during the drain


@pytest.fixture
def replace(serve: Serve) -> Iterator[Callable[[RunningServer], None]]:
    """Begin to stop servers that another process replaces."""
    begun: list[RunningServer] = []

    def begin(server: RunningServer) -> None:
        asyncio.run_coroutine_threadsafe(server.server.stop(replaced=True), server.loop)
        server.call(lambda: None)  # the stop has begun by then
        begun.append(server)

    yield begin
    for server in begun:
        stop_waiting(server)


def test_socket_that_is_accepted_while_another_process_takes_over_has_the_notice(
    serve: Serve, replace: Callable[[RunningServer], None], clients: ExitStack
) -> None:
    app = Watcher()
    server = serve(app, **LONG)
    client = clients.enter_context(RawClient(server.port))
    client.send(handshake("/late"))
    assert app.seen.next() == "connect"
    replace(server)
    assert app.seen.empty
    assert app.accepts is not None
    server.call(app.accepts.set)
    assert client.read_answer().status == 101
    assert app.seen.next() is True
    assert echoes(client)
    stop_waiting(server)
    assert client.read_close() == (1012, "service restart")


def test_handshake_that_is_pending_at_a_stop_is_refused_without_a_notice(serve: Serve, clients: ExitStack) -> None:
    app = Watcher()
    server = serve(app, **LONG)
    client = clients.enter_context(RawClient(server.port))
    client.send(handshake("/late"))
    assert app.seen.next() == "connect"
    server.begin_stop()
    assert client.read_answer().status == 503
    assert app.seen.next() is False
    stop_waiting(server)


# ---- an operator


def close_all(server: RunningServer, code: int = 4001) -> int:
    return int(server.call(lambda: server.server.close_websockets(BulkClose(code=code, reason="moved"))))


def test_bulk_close_gives_notice_and_then_the_code_of_the_operator(serve: Serve, clients: ExitStack) -> None:
    app = Watcher()
    server = serve(app, drain_notice=0.1)
    client = connect(server, clients)
    assert close_all(server) == 1
    client.be_closed(4001, "moved")
    assert [app.seen.next(), app.seen.next()] == [True, ("websocket.disconnect", 4001)]


def test_stop_keeps_the_notice_and_code_of_a_bulk_close(serve: Serve, clients: ExitStack) -> None:
    app = Watcher()
    server = serve(app, **LONG)
    client = connect(server, clients)
    assert close_all(server) == 1
    assert app.seen.next() is True
    assert close_all(server, 4002) == 0, "it is drained already"
    server.begin_stop()
    assert echoes(client)
    stop_waiting(server)
    assert client.read_close() == (4001, "moved")


# ---- other ends


@pytest.mark.parametrize("end", ["close", "reset", "single"])
def test_socket_that_ends_otherwise_was_not_drained(serve: Serve, clients: ExitStack, end: str) -> None:
    app = Watcher()
    server = serve(app, **LONG)
    client = connect(server, clients)
    if end == "close":
        client.send(close(1000))
    elif end == "reset":
        client.reset()
    else:
        assert server.call(lambda: server.server.close_connection(1, 4003, "you"))
    assert app.seen.next() is False


def test_waiting_may_be_cancelled_and_repeated(serve: Serve, clients: ExitStack) -> None:
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asgiws.draining(scope), 0.01)
        both = asyncio.gather(asgiws.draining(scope), asgiws.draining(scope))
        await say(send, "waiting")
        seen.put(await both)
        seen.put(await asgiws.draining(scope))

    server = serve(app, **LONG)
    client = connect(server, clients)
    assert client.read_text() == "waiting"
    server.begin_stop()
    assert [seen.next(), seen.next()] == [[True, True], True]


# ---- the extension


def test_event_comes_once_in_line_with_the_messages(serve: Serve, clients: ExitStack) -> None:
    seen, go_on = Recorder(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send)
        assert scope["extensions"]["websocket.drain"] == {}
        for _ in range(2):  # a second one changes nothing
            await send(SUBSCRIBE)
        await say(send, "subscribed")
        seen.put(await receive())
        await go_on.wait()
        for _ in range(4):
            seen.put(await receive())

    server = serve(app, **LONG)
    client = connect(server, clients)
    assert client.read_text() == "subscribed"
    for message in ("1", "2"):
        client.send(text(message))
    assert seen.next()["text"] == "1"
    while not server.call(lambda: server.server.report()["levels"]["inbox_messages"][""]):
        pass
    server.begin_stop()
    while not server.call(lambda: server.server.counters.drain_notices):
        pass
    client.send(text("3") + close(1000))
    server.call(go_on.set)
    assert seen.next()["text"] == "2"
    event = seen.next()
    assert 0 < event.pop("seconds") <= NEVER_S
    assert event == {"type": "websocket.drain"}
    assert [seen.next()["text"], seen.next()["code"]] == ["3", 1000]


def test_event_comes_at_once_to_one_that_subscribes_during_the_drain(serve: Serve, clients: ExitStack) -> None:
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send)
        await say(send, "accepted")
        await asgiws.draining(scope)
        await send(SUBSCRIBE)
        seen.put((await receive())["type"])

    server = serve(app, **LONG)
    client = connect(server, clients)
    assert client.read_text() == "accepted"
    server.begin_stop()
    assert seen.next() == "websocket.drain"


def test_subscribing_before_the_accept_raises(serve: Serve) -> None:
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        try:
            await send(SUBSCRIBE)
        except RuntimeError as error:
            seen.put(str(error))

    with RawClient(serve(app).port) as client:
        client.send(handshake())
        assert client.read_answer().status == 500
    assert seen.next().startswith("websocket.drain.subscribe before the websocket is open, allowed: websocket.accept")


# ---- what it is given, and where


@pytest.mark.parametrize(
    ("given", "raised"),
    [
        (object(), "object, allowed: a WebSocket that has a scope, or the scope itself"),
        ({"type": "http"}, "a http scope without the extension websocket.drain, allowed: the scope of a WebSocket"),
    ],
)
def test_what_has_no_drain_is_refused(serve: Serve, given: Any, raised: str) -> None:
    server = serve(Watcher())
    with pytest.raises((TypeError, RuntimeError), match=raised):
        server.wait_for(asgiws.draining(given))


def test_under_another_server_it_waits_until_it_is_cancelled() -> None:
    async def main() -> None:
        waiting = asyncio.create_task(asgiws.draining({"type": "websocket"}))
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())


# ---- the example of the page


def example() -> dict[str, Any]:
    page = (ROOT / "deploy/questions.md").read_text()
    (source,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "draining" in code]
    namespace: dict[str, Any] = {}
    exec(compile(source, "app.py", "exec"), namespace)
    return namespace


@pytest.mark.promise
def test_example_saves_what_it_has_and_says_so(serve: Serve, clients: ExitStack) -> None:
    made = example()
    server = serve(made["app"], **LONG)
    client, left = connect(server, clients, "/drafts/one"), connect(server, clients, "/drafts/two")
    for number in (1, 2):
        client.send(text(f"line {number}"))
        assert client.read_text() == f"{number} lines"
    left.send(close(1000))
    assert left.read_close()[0] == 1000
    server.begin_stop()
    client.be_closed(1012, "your draft is saved")
    server.stop()
    assert made["DRAFTS"] == {"one": ["line 1", "line 2"]}


def test_example_runs_under_the_test_client() -> None:
    """Where nothing announces a drain: it works, and leaves no task behind."""
    testclient = pytest.importorskip("starlette.testclient")
    made = example()
    with testclient.TestClient(made["app"]) as client, client.websocket_connect("/drafts/one") as websocket:
        websocket.send_text("line 1")
        assert websocket.receive_text() == "1 lines"
    assert made["DRAFTS"] == {}


def test_stop_with_nobody_to_wait_for_takes_no_notice(serve: Serve) -> None:
    server = serve(Watcher(), **LONG)
    server.stop()
    assert server.left_tasks == []
    assert PATIENCE_S < NEVER_S
