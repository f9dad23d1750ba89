"""The end of a server that has clients: a delay, a spread, a successor, and a terminal that goes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import select
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path

import pytest

from asgiws.server.asgi import Scope
from tests import PATIENCE_S
from tests.apps import Receive, Recorder, Send, echo, refuse_lifespan
from tests.conftest import RunningServer, Serve
from tests.raw import RawClient, close, handshake, text
from tests.server_process import APPS, ServerProcess, Start, assert_no_traceback, module_command, post

ECHO = f"{APPS}:echo"
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
BEGUN = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nab"


def drain(process: ServerProcess) -> None:
    """Send the first signal, and wait until the drain has begun."""
    process.terminate()
    process.wait_stderr("draining")


def gets_last_answer(client: RawClient) -> bool:
    """Send a request; whether its answer was said to be the last, and was."""
    client.send(GET)
    answer = client.read_answer()
    return (answer.status, answer.header(b"connection"), client.read_to_end()) == (200, b"close", b"")


# ---- the delay


def test_during_the_delay_everything_goes_on_but_answers_say_close(start: Start) -> None:
    """New connections, old ones, requests that had begun, WebSockets old and new."""
    process = start(ECHO, "--drain-delay", "600")
    with ExitStack() as stack:
        idle, begun, websocket = (stack.enter_context(RawClient(process.port)) for _ in range(3))
        assert post(idle, b"hello") == b"hello"
        websocket.open_websocket()
        begun.send(BEGUN)
        process.wait_stdout("http part ab")
        drain(process)

        assert gets_last_answer(stack.enter_context(RawClient(process.port)))
        assert gets_last_answer(idle)
        begun.send(b"cd")
        answer = begun.read_answer()
        assert (answer.body, answer.header(b"connection")) == (b"abcd", b"close")
        assert begun.read_to_end() == b""
        new = stack.enter_context(RawClient(process.port))
        new.open_websocket()
        for client in (websocket, new):
            client.send(text("still here"))
            assert client.read_text() == "still here"
        # The second signal ends the delay
        process.signal(signal.SIGINT)
        for client in (websocket, new):
            assert client.read_close() == (1012, "service restart")
        assert process.wait() == 0


def test_delay_ends_and_then_connections_are_refused(start: Start) -> None:
    process = start(ECHO, "--drain-delay", "300ms", "--graceful-timeout", "600")
    with RawClient(process.port) as websocket, RawClient(process.port) as begun:
        websocket.open_websocket()
        begun.send(BEGUN)
        process.wait_stdout("http part ab")
        drain(process)
        RawClient(process.port).socket.close()
        assert websocket.read_close() == (1012, "service restart")
        with pytest.raises(ConnectionRefusedError):
            RawClient(process.port)
        websocket.send(close(1012))
        begun.send(b"cd")
        assert begun.read_answer().body == b"abcd"
        assert process.wait() == 0


def test_second_signal_ends_the_delay_of_an_idle_server(start: Start) -> None:
    process = start(ECHO, "--drain-delay", "600", "--graceful-timeout", "600")
    drain(process)
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    process.wait_stdout("lifespan.shutdown")


def test_readiness_turns_false_at_once(serve: Serve) -> None:
    """Before anything else changes, so that a load balancer can see it."""
    server = serve(echo, drain_delay=600)
    assert server.call(lambda: server.server.ready)
    server.begin_stop()
    with RawClient(server.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.read_answer().status == 200
    assert not server.call(lambda: server.server.ready)
    server.call(server.server.force_stop)


def test_stop_may_be_called_twice(serve: Serve) -> None:
    """Within `async with` as well, whose end stops too."""
    server = serve(echo)
    server.wait_for(server.server.stop())
    server.wait_for(server.server.stop())
    assert not server.server.ready


# ---- the spread


def open_websockets(process: ServerProcess, count: int, stack: ExitStack) -> list[RawClient]:
    clients = [stack.enter_context(RawClient(process.port)) for _ in range(count)]
    for client in clients:
        client.open_websocket()
    return clients


def test_websockets_are_closed_evenly_over_the_spread(start: Start) -> None:
    """No more of them may come back at once than the successor can take."""
    count, spread_s = 20, 1.5
    process = start(f"{APPS}:listens_only", "--drain-spread", f"{spread_s}s", "--graceful-timeout", "600")
    with ExitStack() as stack:
        clients = open_websockets(process, count, stack)
        began_s = time.monotonic()
        process.signal(signal.SIGTERM)
        closed_s: list[float] = []
        waiting = {client.socket: client for client in clients}
        while waiting:
            readable, _, _ = select.select(list(waiting), [], [], PATIENCE_S)
            assert readable, f"{len(waiting)} were not closed"
            for ready in readable:
                closed_s.append(time.monotonic() - began_s)
                client = waiting.pop(ready)
                assert client.read_close() == (1012, "service restart")
                client.send(close(1012))
        assert process.wait() == 0
    # Nobody is early, but for the coarseness of a loop's clock, and who comes in the middle is closed in the middle.
    for place, seen_s in enumerate(closed_s):
        assert seen_s >= spread_s * place / count - 0.005
    assert 0.25 * spread_s < statistics.median(closed_s) < 0.75 * spread_s
    assert closed_s[0] < 0.5 * spread_s


def test_requests_are_not_part_of_the_spread(start: Start) -> None:
    """Idle HTTP connections end at once, and an open response when it is done."""
    process = start(ECHO, "--drain-spread", "600", "--graceful-timeout", "600")
    with ExitStack() as stack:
        idle, begun = (stack.enter_context(RawClient(process.port)) for _ in range(2))
        clients = open_websockets(process, 3, stack)
        assert post(idle, b"") == b""
        begun.send(BEGUN)
        process.wait_stdout("http part ab")
        process.terminate()
        assert idle.read_to_end() == b""
        begun.send(b"cd")
        assert begun.read_answer().header(b"connection") == b"close"
        assert begun.read_to_end() == b""
        closed, _, _ = select.select([client.socket for client in clients], [], [], PATIENCE_S)
        assert len(closed) == 1, "two of them still wait for their turn"
        process.signal(signal.SIGTERM)
        assert process.wait() == 0


def open_event_streams(process: ServerProcess, count: int, stack: ExitStack) -> list[RawClient]:
    clients = [stack.enter_context(RawClient(process.port)) for _ in range(count)]
    for client in clients:
        client.send(GET)
        assert client.read_until(b"data: 1").startswith(b"HTTP/1.1 200")
    return clients


def test_event_streams_are_part_of_the_spread(start: Start) -> None:
    """Their clients come back at once, as those of WebSockets do."""
    process = start(f"{APPS}:stream_events", "--drain-spread", "600", "--graceful-timeout", "600")
    with ExitStack() as stack:
        clients = open_event_streams(process, 3, stack)
        process.terminate()
        process.wait_stdout("http.disconnect")
        # The end of the first one's body; the others wait for their turn.
        waiting = [client.socket for client in clients]
        while b"0\r\n\r\n" not in (read := select.select(waiting, [], [], PATIENCE_S)[0][0].recv(65536)):
            assert read
        process.wait_stderr("waiting for 2 requests, up to 600 s; signal again to stop now")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    assert [line for line in process.stderr if "waiting for" in line][1:] == []
    assert_no_traceback(process)


def test_event_streams_end_at_once_without_a_spread(start: Start) -> None:
    process = start(f"{APPS}:stream_events", "--graceful-timeout", "600")
    with ExitStack() as stack:
        clients = open_event_streams(process, 3, stack)
        process.signal(signal.SIGTERM)
        for client in clients:
            assert client.read_to_end().endswith(b"0\r\n\r\n")
        assert process.wait() == 0
    process.rest_of_stdout()
    assert process.stdout.count("http.disconnect") == 3
    assert [line for line in process.stderr if "waiting for" in line] == []


def test_second_signal_ends_the_spread(start: Start) -> None:
    """All that wait for their turn are told at once."""
    process = start(f"{APPS}:listens_only", "--drain-spread", "600", "--graceful-timeout", "600")
    with ExitStack() as stack:
        clients = open_websockets(process, 5, stack)
        process.terminate()
        readable, _, _ = select.select([client.socket for client in clients], [], [], PATIENCE_S)
        assert len(readable) == 1, "the first one's turn is at once"
        process.signal(signal.SIGTERM)
        for client in clients:
            assert client.read_close() == (1012, "service restart")
            assert client.read_to_end() == b""
        assert process.wait() == 0


def test_connections_that_leave_during_the_spread_shorten_it(start: Start) -> None:
    """Nobody waits for the turn of one that has gone."""
    process = start(f"{APPS}:listens_only", "--drain-spread", "600", "--graceful-timeout", "600")
    with ExitStack() as stack:
        clients = open_websockets(process, 5, stack)
        process.terminate()
        for client in clients:
            client.send(close(1000))
            client.read_to_end()
        # The applications end with their clients, and so does the server.
        assert process.wait() == 0


def test_graceful_timeout_ends_who_does_not_answer_the_close(start: Start) -> None:
    process = start(
        f"{APPS}:listens_only", "--drain-spread", "300ms", "--graceful-timeout", "300ms", "--close-timeout", "600"
    )
    with ExitStack() as stack:
        clients = open_websockets(process, 4, stack)
        process.terminate()
        for client in clients:
            assert client.read_close() == (1012, "service restart")
            assert client.read_to_end() == b""
        assert process.wait() == 0


# ---- a successor


@pytest.fixture
def replace(serve: Serve) -> Iterator[Callable[[RunningServer], Future[None]]]:
    """Begin to stop servers that another process replaces."""
    stops: list[tuple[RunningServer, Future[None]]] = []

    def begin(server: RunningServer) -> Future[None]:
        stop = asyncio.run_coroutine_threadsafe(server.server.stop(replaced=True), server.loop)
        server.call(lambda: None)  # the stop has begun by then
        stops.append((server, stop))
        return stop

    yield begin
    for server, _ in stops:
        with contextlib.suppress(RuntimeError):
            server.loop.call_soon_threadsafe(server.server.force_stop)


def accepted(server: RunningServer) -> RawClient:
    """A client that has sent nothing, and was accepted: who came behind it was."""
    client = RawClient(server.port)
    with RawClient(server.port) as behind:
        assert post(behind, b"hello") == b"hello"
    return client


def test_replaced_server_serves_whom_it_has_accepted(serve: Serve, replace: Callable[..., Future[None]]) -> None:
    """The client has seen its connection made, and its request is on its way."""
    server = serve(echo, graceful_timeout=600)
    with accepted(server) as silent, accepted(server) as begun:
        begun.send(GET[:10])
        stop = replace(server)
        assert gets_last_answer(silent)
        begun.send(GET[10:])
        answer = begun.read_answer()
        assert (answer.status, answer.header(b"connection")) == (200, b"close")
        stop.result(PATIENCE_S)


def test_replaced_server_answers_one_more_request_of_a_client_that_was_active(
    serve: Serve, replace: Callable[..., Future[None]]
) -> None:
    server = serve(echo, graceful_timeout=600)
    with RawClient(server.port) as active:
        assert post(active, b"hello") == b"hello"
        stop = replace(server)
        assert gets_last_answer(active)
        stop.result(PATIENCE_S)


def test_replaced_server_accepts_no_more(serve: Serve, replace: Callable[..., Future[None]]) -> None:
    """Also with a delay: that is for load balancers, and nobody has to notice this."""
    server = serve(echo, graceful_timeout=600, drain_delay=600)
    with accepted(server) as silent:
        stop = replace(server)
        with pytest.raises(ConnectionRefusedError):
            RawClient(server.port)
        assert gets_last_answer(silent)
        stop.result(PATIENCE_S)


def test_replaced_server_waits_a_quarter_of_its_time_for_silent_clients(
    serve: Serve, replace: Callable[..., Future[None]]
) -> None:
    server = serve(echo, graceful_timeout=4, head_timeout=600, keep_alive_timeout=600)
    with accepted(server) as silent, RawClient(server.port) as active:
        assert post(active, b"hello") == b"hello"
        began_s = time.monotonic()
        stop = replace(server)
        assert silent.read_to_end() == b""
        assert active.read_to_end() == b""
        stop.result(PATIENCE_S)
        assert 1 <= time.monotonic() - began_s < 3.9


class Undecided:
    """Accepts a WebSocket when it is told to."""

    def __init__(self) -> None:
        self.seen = Recorder()
        self.decided: asyncio.Event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        if scope["type"] == "http":
            await echo(scope, receive, send)
            return
        self.decided = asyncio.Event()
        await receive()
        self.seen.put("connect")
        await self.decided.wait()
        await send({"type": "websocket.accept"})
        event = await receive()
        self.seen.put((event["type"], event.get("code")))

    def decide(self, server: RunningServer) -> None:
        server.call(lambda: self.decided.set())


def test_replaced_server_completes_a_handshake_and_then_says_goodbye(
    serve: Serve, replace: Callable[..., Future[None]]
) -> None:
    """A refusal would be a failure to a page; a Close 1012 is a reason to come back."""
    app = Undecided()
    server = serve(app, graceful_timeout=600)
    with RawClient(server.port) as client:
        client.send(handshake())
        assert app.seen.next() == "connect"
        stop = replace(server)
        app.decide(server)
        assert client.read_answer().status == 101
        client.be_closed(1012, "service restart")
        assert app.seen.next() == ("websocket.disconnect", 1012)
        stop.result(PATIENCE_S)


def test_replaced_server_completes_a_handshake_that_comes_late(
    serve: Serve, replace: Callable[..., Future[None]]
) -> None:
    """The only connection turns from HTTP to WebSocket meanwhile, and is still waited for."""
    app = Undecided()
    server = serve(app, graceful_timeout=600)
    with RawClient(server.port) as client:
        assert post(client, b"hello") == b"hello"
        stop = replace(server)
        client.send(handshake())
        assert app.seen.next() == "connect"
        app.decide(server)
        assert client.read_answer().status == 101
        client.be_closed(1012, "service restart")
        stop.result(PATIENCE_S)


# ---- SIGHUP


@pytest.fixture
def at_terminal(processes: list[ServerProcess], loop_name: str) -> Iterator[Callable[..., tuple[ServerProcess, int]]]:
    """Start a server at a terminal, and give the terminal's other end."""
    masters: list[int] = []

    def start(*arguments: str, leads: bool, wait_ready: bool = True) -> tuple[ServerProcess, int]:
        master, slave = pty.openpty()
        masters.append(master)
        command = module_command(["--port", "0", "--loop", loop_name, *arguments])
        if leads:
            setsid = shutil.which("setsid")
            if setsid is None:
                pytest.skip("there is no setsid: it comes with util-linux")
            command = [setsid, "--ctty", *command]
        try:
            process = ServerProcess(command, stdin=slave)
        finally:
            os.close(slave)
        processes.append(process)
        if wait_ready:
            process.wait_ready()
        return process, master

    yield start
    for master in masters:
        with contextlib.suppress(OSError):
            os.close(master)


def test_hangup_of_a_terminal_that_has_gone_ends_an_import(
    at_terminal: Callable[..., tuple[ServerProcess, int]], tmp_path: Path
) -> None:
    """Nobody is left who waits for it."""
    (tmp_path / "slow.py").write_text("import threading\nprint('importing', flush=True)\nthreading.Event().wait()\n")
    process, master = at_terminal("slow:app", "--app-dir", str(tmp_path), leads=False, wait_ready=False)
    process.wait_stdout("importing")
    os.close(master)
    process.signal(signal.SIGHUP)
    assert process.wait() == 1
    process.wait_stderr("interrupted before the application was served")


@pytest.mark.parametrize("leads", [False, True], ids=["told", "by-the-kernel"])
def test_hangup_of_a_terminal_that_has_gone_stops(
    at_terminal: Callable[..., tuple[ServerProcess, int]], leads: bool
) -> None:
    """Gracefully, however often: the kernel says so, and a shell may as well."""
    process, master = at_terminal(ECHO, "--graceful-timeout", "600", leads=leads)
    with RawClient(process.port) as client:
        client.send(BEGUN)
        process.wait_stdout("http part ab")
        os.close(master)
        if not leads:
            process.signal(signal.SIGHUP)
        process.wait_stderr("stopping")
        process.signal(signal.SIGHUP)
        client.send(b"cd")
        assert client.read_answer().body == b"abcd"
        assert client.read_to_end() == b""
    assert process.wait() == 0


def test_hangup_at_a_terminal_that_is_there_is_no_end(at_terminal: Callable[..., tuple[ServerProcess, int]]) -> None:
    process, _ = at_terminal(ECHO, leads=False)
    process.signal(signal.SIGHUP)
    process.wait_stderr("nothing to reload; rolling restarts take --workers 1 or more")
    with RawClient(process.port) as client:
        assert post(client, b"hello") == b"hello"


def test_hangup_without_a_terminal_is_no_end(start: Start) -> None:
    """As a service manager sends it for a reload, again and again."""
    process = start(ECHO)
    for _ in range(3):
        process.signal(signal.SIGHUP)
        process.wait_stderr("nothing to reload")
    with RawClient(process.port) as client:
        assert post(client, b"hello") == b"hello"
    process.terminate()
    assert process.wait() == 0
