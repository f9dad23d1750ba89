"""The server from Python: `asgiws.run`, `asgiws.serve` and `asgiws.Server`, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

import asgiws
from asgiws.runner.loops import loop_factory
from asgiws.server.asgi import ASGIApp, Scope
from asgiws.server.lifespan import StartupFailed
from asgiws.server.sockets.listeners import CannotListen
from tests import PATIENCE_S
from tests.apps import Receive, Recorder, Send, accept, echo, messages
from tests.programs import reserved_port
from tests.raw import RawClient

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def run_on(loop_name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine on a loop of its own, and check that no task and no unhandled error is left on it."""
    loop = loop_factory(loop_name)()
    errors: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, details: errors.append(details))
    try:
        loop.run_until_complete(main())
        left = asyncio.all_tasks(loop)
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    assert left == set()
    assert errors == []


async def in_thread(function: Callable[..., Any], *arguments: object) -> Any:
    """Run what blocks, such as a client, beside the server's loop."""
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


def get(port: int) -> int:
    with RawClient(port) as client:
        client.send(GET + b"\r\n")
        return client.read_answer().status


def assert_refused(port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        RawClient(port)


class Listening(logging.Handler):
    """Takes the port from the line that says where the server listens."""

    def __init__(self, ready: Callable[[int], object]) -> None:
        super().__init__()
        self._ready = ready

    def emit(self, record: logging.LogRecord) -> None:
        found = re.search(r"listening on http://127\.0\.0\.1:(\d+)", record.getMessage())
        if found:
            self._ready(int(found[1]))


@contextlib.contextmanager
def listening(ready: Callable[[int], object]) -> Iterator[None]:
    """Call `ready` with the port once a server listens."""
    logger, handler = logging.getLogger("asgiws"), Listening(ready)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel("INFO")
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class Site:
    """An application with a lifespan that writes down what becomes of it."""

    def __init__(self) -> None:
        self.seen = Recorder()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await accept(scope, receive, send)
            async for _ in messages(receive, self.seen):
                pass
        else:
            await echo(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        self.seen.put((await receive())["type"])
        try:
            await self.start(send)
            self.seen.put((await receive())["type"])
            await send({"type": "lifespan.shutdown.complete"})
        except asyncio.CancelledError:
            self.seen.put("cancelled")
            raise

    async def start(self, send: Send) -> None:
        await send({"type": "lifespan.startup.complete"})

    def saw(self) -> list[object]:
        """All that it has written down."""
        return [self.seen.next() for _ in iter(lambda: self.seen.empty, True)]


class FailingSite(Site):
    """Says that it cannot start, and then waits."""

    async def start(self, send: Send) -> None:
        await send({"type": "lifespan.startup.failed", "message": "no database"})


class SlowSite(Site):
    """Never completes its startup."""

    def __init__(self) -> None:
        super().__init__()
        self.starting = asyncio.Event()

    async def start(self, send: Send) -> None:
        self.starting.set()
        await asyncio.Event().wait()


# ---- Server


def test_server_is_a_context_manager_that_knows_its_port(loop_name: str) -> None:
    """Port 0 is a free one, and `port` and `addresses` say which; after the block it is free again."""
    site = Site()

    async def main() -> None:
        async with asgiws.Server(site, asgiws.Config(port=0)) as server:
            assert server.port > 0
            assert server.addresses == [f"http://127.0.0.1:{server.port}"]
            assert await in_thread(get, server.port) == 200
            assert server.counters.http_requests == 1
        assert server.connection_count == 0
        assert_refused(server.port)

    run_on(loop_name, main)
    assert site.saw() == ["lifespan.startup", "lifespan.shutdown"]


def test_server_stops_when_its_block_raises(loop_name: str) -> None:
    """The exception of the block comes out, after an orderly stop."""
    site = Site()

    async def main() -> None:
        with pytest.raises(LookupError, match="of the block"):
            async with asgiws.Server(site, asgiws.Config(port=0)) as server:
                raise LookupError("of the block")
        assert_refused(server.port)

    run_on(loop_name, main)
    assert site.saw() == ["lifespan.startup", "lifespan.shutdown"]


def test_two_servers_share_a_loop(loop_name: str) -> None:
    """There is no state that belongs to the process."""

    async def main() -> None:
        async with (
            asgiws.Server(echo, asgiws.Config(port=0)) as first,
            asgiws.Server(echo, asgiws.Config(port=0)) as second,
        ):
            assert await in_thread(get, first.port) == 200
            assert await in_thread(get, second.port) == 200
            assert (first.counters.http_requests, second.counters.http_requests) == (1, 1)

    run_on(loop_name, main)


def test_server_stops_with_open_connections(loop_name: str) -> None:
    """A WebSocket gets its Close, and its application the disconnect, before the block is left."""
    site = Site()

    async def main() -> None:
        config = asgiws.Config(port=0, close_timeout=0.2)
        with contextlib.ExitStack() as clients:
            async with asgiws.Server(site, config) as server:
                client = clients.enter_context(await in_thread(RawClient, server.port))
                await in_thread(client.open_websocket)
            assert client.read_close() == (1012, "service restart")
            assert client.read_to_end() == b""

    run_on(loop_name, main)
    assert site.saw() == ["lifespan.startup", (1012, "service restart"), "lifespan.shutdown"]


# ---- serve


def test_serve_stops_in_order_when_cancelled(loop_name: str) -> None:
    """Cancelling the task stops an embedded server: WebSockets are told, the lifespan ends, nothing is left."""
    site = Site()

    async def main() -> None:
        ready = asyncio.get_running_loop().create_future()
        with listening(ready.set_result):
            task = asyncio.create_task(asgiws.serve(site, port=0, close_timeout=0.2))
            async with asyncio.timeout(PATIENCE_S):
                port = await ready
        assert await in_thread(get, port) == 200
        with await in_thread(RawClient, port) as client:
            await in_thread(client.open_websocket)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert client.read_close() == (1012, "service restart")
        assert_refused(port)

    run_on(loop_name, main)
    assert site.saw() == ["lifespan.startup", (1012, "service restart"), "lifespan.shutdown"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_returns_after_a_signal_and_gives_the_handlers_back(loop_name: str, number: signal.Signals) -> None:
    """In the main thread it takes the signals, and only as long as it serves."""
    site = Site()
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]

    async def main() -> None:
        with listening(lambda port: signal.raise_signal(number)):
            async with asyncio.timeout(PATIENCE_S):
                await asgiws.serve(site, port=0)

    run_on(loop_name, main)
    assert site.saw() == ["lifespan.startup", "lifespan.shutdown"]
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_leaves_no_thread_that_would_end_the_program(loop_name: str, number: signal.Signals) -> None:
    """What ends a process that does not stop in time ends with the stop: the program may go on for long."""
    before = set(threading.enumerate())

    async def main() -> None:
        with listening(lambda port: signal.raise_signal(number)):
            async with asyncio.timeout(PATIENCE_S):
                await asgiws.serve(echo, port=0, graceful_timeout=600)

    run_on(loop_name, main)
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), f"{thread} outlived the server"


def test_serve_outside_the_main_thread_leaves_signals_alone(loop_name: str) -> None:
    """Python allows signal handlers in the main thread only; a server in another one works all the same."""
    site = Site()
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    seen: list[object] = []

    async def main() -> None:
        ready = asyncio.get_running_loop().create_future()
        with listening(ready.set_result):
            task = asyncio.create_task(asgiws.serve(site, port=0))
            async with asyncio.timeout(PATIENCE_S):
                seen.append(await in_thread(get, await ready))
        seen.append([signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)])
        task.cancel()
        await asyncio.wait([task])

    thread = threading.Thread(target=run_on, args=(loop_name, main))
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert seen == [200, before]


# ---- errors are raised to the caller, with nothing left running


@pytest.mark.parametrize("app", [echo, "no_such_module:app"], ids=["object", "name"])
@pytest.mark.parametrize("call", [asgiws.run, asgiws.serve], ids=["run", "serve"])
def test_env_file_is_refused_where_it_would_not_be_read(
    loop_name: str, call: Callable[..., Any], app: ASGIApp | str
) -> None:
    """Before the application is imported; whether the file exists or not."""

    async def main() -> None:
        for path in (__file__, "no-such.env"):
            with pytest.raises(asgiws.OptionError, match=f"--env-file: {path!r} was given, allowed: on the command"):
                await call(app, env_file=path)

    run_on(loop_name, main)


@pytest.mark.parametrize("call", [asgiws.run, asgiws.serve], ids=["run", "serve"])
def test_unknown_option_is_raised_before_the_application_is_called(loop_name: str, call: Callable[..., Any]) -> None:
    site = Site()

    async def main() -> None:
        with pytest.raises(asgiws.OptionError, match=r"prot: there is no such option; did you mean port\?"):
            await call(site, prot=1)
        with pytest.raises(asgiws.OptionError, match="--port: 70000 was given, allowed: 0 to 65535"):
            await call(site, port=70000)

    run_on(loop_name, main)
    assert site.saw() == []


def start_with_server(app: ASGIApp, config: asgiws.Config) -> Coroutine[Any, Any, None]:
    return asgiws.Server(app, config).start()


def start_with_serve(app: ASGIApp, config: asgiws.Config) -> Coroutine[Any, Any, None]:
    return asgiws.serve(app, host=config.host, port=config.port, lifespan=config.lifespan)


WAYS = pytest.mark.parametrize("start", [start_with_server, start_with_serve], ids=["Server", "serve"])
Starting = Callable[[ASGIApp, asgiws.Config], Coroutine[Any, Any, None]]


@WAYS
def test_failed_startup_is_raised_and_leaves_nothing(loop_name: str, start: Starting) -> None:
    """StartupFailed carries the application's message; an application that goes on afterwards is cancelled."""
    site = FailingSite()

    async def main() -> None:
        with reserved_port() as port:
            with pytest.raises(StartupFailed, match="application startup failed: no database"):
                await start(site, asgiws.Config(port=port))
            assert_refused(port)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_on(loop_name, main)
    assert site.saw() == ["lifespan.startup", "cancelled"]


@WAYS
def test_missing_lifespan_that_is_asked_for_is_raised_and_leaves_nothing(loop_name: str, start: Starting) -> None:
    async def main() -> None:
        with reserved_port() as port:
            with pytest.raises(StartupFailed, match="application has no lifespan"):
                await start(echo, asgiws.Config(port=port, lifespan="on"))
            assert_refused(port)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_on(loop_name, main)


@WAYS
def test_port_in_use_is_raised_and_the_application_is_shut_down(loop_name: str, start: Starting) -> None:
    """The application had started already, so it gets its shutdown."""
    site = Site()

    async def main() -> None:
        taken = socket.create_server(("127.0.0.1", 0))
        with taken, pytest.raises(CannotListen, match="Address already in use"):
            await start(site, asgiws.Config(port=taken.getsockname()[1]))
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_on(loop_name, main)
    assert site.saw() == ["lifespan.startup", "lifespan.shutdown"]


@WAYS
def test_second_address_in_use_closes_the_first(loop_name: str, start: Starting) -> None:
    """All addresses or none."""
    try:
        taken = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")

    async def main() -> None:
        with taken:
            port = taken.getsockname()[1]
            with pytest.raises(CannotListen, match="Address already in use"):
                await start(Site(), asgiws.Config(host="", port=port))
            assert_refused(port)

    run_on(loop_name, main)


@WAYS
def test_cancelled_startup_leaves_nothing(loop_name: str, start: Starting) -> None:
    """A caller that gives up waiting for a startup that hangs."""
    site = SlowSite()

    async def main() -> None:
        with reserved_port() as port:
            task = asyncio.create_task(start(site, asgiws.Config(port=port)))
            async with asyncio.timeout(PATIENCE_S):
                await site.starting.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert_refused(port)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_on(loop_name, main)
    assert site.saw() == ["lifespan.startup", "cancelled"]


def test_public_names_are_the_documented_ones() -> None:
    assert sorted(asgiws.__all__) == [
        "ClientDisconnected", "Config", "OptionError", "Server", "Topic", "TopicsUnavailable", "__version__",
        "draining", "run", "serve",
    ]  # fmt: skip
    assert all(hasattr(asgiws, name) for name in asgiws.__all__)
