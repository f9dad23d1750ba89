"""Fixtures: a real server on a real port, on each event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Generator, Iterator
from concurrent.futures import Future
from typing import Any, Protocol

import hypothesis
import pytest

from asgiws.config.options import Config
from asgiws.runner.loops import loop_factory
from asgiws.server.asgi import ASGIApp
from asgiws.server.server import Server
from asgiws.topics.hub import Hub
from tests import PATIENCE_S

FULL_KINDS = ("process", "browser", "slow")
PROCESS_FIXTURES = {"processes", "open_terminal"}
FULL_FOLDERS = {"bench", "conformance", "deploy"}
TAKES_MINUTES = {"test_docker.py", "test_autobahn.py"}
PROMISE_LOOP = "asyncio"

# A time says more about the machine than about what is tested.
hypothesis.settings.register_profile("asgiws", deadline=None)
hypothesis.settings.load_profile("asgiws")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that start processes, and those that the default run leaves out (pyproject.toml, "markers").

    What takes minutes begins first, in one process, and the others take what is left.
    """
    for item in items:
        if PROCESS_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("process")
        if is_full(item) and not is_promise(item):
            item.add_marker("full")
    items.sort(key=lambda item: item.path.name not in TAKES_MINUTES)


def is_full(item: pytest.Item) -> bool:
    """Return whether a test is of a kind that the default run leaves out."""
    return item.path.parent.name in FULL_FOLDERS or any(map(item.get_closest_marker, FULL_KINDS))


def is_promise(item: pytest.Item) -> bool:
    """Return whether the default run takes a test all the same: the proof of a promise, on one loop if not on both."""
    if item.get_closest_marker("promise") is None:
        return False
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return parameters.get("loop_name", PROMISE_LOOP) == PROMISE_LOOP


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Escape lone surrogates, which hypothesis likes to log, in reports: pytest-xdist cannot send them."""
    return escaped((yield))


def escaped(value: Any) -> Any:
    """Return a value, and all in it, with strings that can be encoded as UTF-8."""
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case dict():
            return {escaped(key): escaped(item) for key, item in value.items()}
        case list() | tuple():
            return type(value)(map(escaped, value))
    return value


class RunningServer:
    """A server in a thread with its own event loop."""

    def __init__(self, app: ASGIApp, loop_name: str, config: Config) -> None:
        self.app = app
        self.errors: list[dict[str, Any]] = []
        """What reached the loop's exception handler: nothing ever should."""
        self._loop_name = loop_name
        self._config = config
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="server")
        self._closing = threading.Lock()
        """Held while the loop closes: without a GIL, uvloop crashes when another thread calls it then."""
        self._stop: asyncio.Event
        self.loop: asyncio.AbstractEventLoop
        self.server: Server
        self.hub: Hub
        self.left_tasks: list[str] = []

    def start(self) -> None:
        self._thread.start()
        self._ready.result(PATIENCE_S)

    def stop(self) -> None:
        """Stop gracefully and wait; may be called twice."""
        # It may be ending by itself: then the loop can be closed while the thread is still there.
        if self._thread.is_alive():
            with self._closing, contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the server did not stop"

    def begin_stop(self) -> None:
        """Tell the server to stop, as the first signal does."""
        self.loop.call_soon_threadsafe(self._stop.set)

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function in the server's thread and give its result."""

        async def call() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(PATIENCE_S)

    def wait_for(self, awaitable: Awaitable[Any]) -> Any:
        """Await something on the server's loop."""

        async def wait() -> Any:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(wait(), self.loop).result(PATIENCE_S)

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def _run(self) -> None:
        self.loop = loop_factory(self._loop_name)()
        self.loop.set_exception_handler(lambda _, details: self.errors.append(details))
        try:
            self.loop.run_until_complete(self._serve())
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)
        finally:
            with self._closing:
                self.loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        async with Server(self.app, self._config) as self.server:
            self.hub = self.server.worker.topics
            self._ready.set_result(None)
            await self._stop.wait()
        self.left_tasks = [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]


class Serve(Protocol):
    """The fixture `serve`: starts an application with options, as keywords of `asgiws.serve`."""

    def __call__(self, app: ASGIApp, /, **options: object) -> RunningServer: ...


@pytest.fixture(params=["asyncio", "uvloop"])
def loop_name(request: pytest.FixtureRequest) -> str:
    """Each server test runs on both event loops."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop is not installed: pip install -e '.[uvloop]'")
    return str(request.param)


@pytest.fixture
def serve(loop_name: str) -> Iterator[Serve]:
    """Start servers that end with the test, and check that each left nothing behind."""
    running: list[RunningServer] = []

    def start(app: ASGIApp, /, **options: object) -> RunningServer:
        # No pings: where the machine is slow, one would come into a test that is about something else.
        options = {"port": 0, "graceful_timeout": 2, "access_log": False, "ping_interval": 0, **options}
        server = RunningServer(app, loop_name, Config.from_options(options))
        server.start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.stop()
    for server in running:
        assert server.errors == [], "the event loop met an exception nobody handled"
        assert server.left_tasks == [], "tasks outlived the server"
        assert server.server.connection_count == 0
